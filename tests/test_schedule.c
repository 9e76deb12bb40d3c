/* Schedules: reading, overriding, refusing, writing, and what holds in which step. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/must.h"
#include "tests/scratch.h"
#include "train/recipe.h"
#include "train/schedule.h"

/* Defaults changed by a JSON text, checked. */
static struct schedule make(const char *text) {
    struct schedule s = schedule_default();
    struct err err = {0};
    must(schedule_parse(text, strlen(text), "test.json", &s, &err), &err);
    must(schedule_check(&s, "test.json", &err), &err);
    return s;
}

static void assert_refused(int rc, int code, const struct err *err, const char *const parts[]) {
    assert_int_equal(rc, code);
    assert_int_equal(err->code, code);
    for (int i = 0; parts[i]; i++)
        if (!strstr(err->message, parts[i]))
            fail_msg("\"%s\" is not in: %s", parts[i], err->message);
}

/* --- reading ---------------------------------------------------------------------------------------------------------- */

static void test_read(void **state) {
    struct schedule s = schedule_default();
    struct scratch dir;
    struct err err = {0};
    (void)state;
    scratch_open(&dir);
    char *path = scratch_write_text(&dir, "s.json", "{\"steps\": 40, \"learning_rate\": 1e-3, \"policy\": \"full\", "
                                                    "\"trained\": \"all\", \"recompute\": true, \"seed\": 3.0, "
                                                    "\"predictor_activation\": \"gelu\", \"gates\": \"sampled\"}");
    must(schedule_read(path, &s, &err), &err);
    assert_int_equal(s.steps, 40);
    assert_true(s.learning_rate == 1e-3 && s.recompute && s.seed == 3 && s.predictor_activation == ACT_GELU);
    assert_true(s.gates == GATES_SAMPLED && s.weight_decay == 0.1 && s.context_len == 1024);
    assert_string_equal(s.policy, "full");
    assert_int_equal(schedule_read(scratch_path(&dir, "absent.json"), &s, &err), ERR_IO);
    scratch_close(&dir);
}

static void test_refuse_text(void **state) {
    static const struct {
        const char *text, *parts[4];
    } cases[] = {
        {"{\"lr\": 1}", {"unknown key \"lr\"", "learning_rate"}},
        {"{\"steps\": \"many\"}", {"\"steps\" is \"many\"", "whole number from 1 to 1000000000", "optimizer steps"}},
        {"{\"steps\": 2.5}", {"\"steps\" is 2.5", "whole number"}},
        {"{\"steps\": 0}", {"\"steps\" is 0", "from 1"}},
        {"{\"steps\": 1e300}", {"\"steps\" is 1e300", "from 1"}},
        {"{\"steps\": null}", {"\"steps\" is null"}},
        {"{\"learning_rate\": -1}", {"\"learning_rate\" is -1", "a number from 0 to 10"}},
        {"{\"learning_rate\": true}", {"\"learning_rate\" is true", "a number"}},
        {"{\"recompute\": 1}", {"\"recompute\" is 1", "true or false"}},
        {"{\"gates\": \"hard\"}", {"\"gates\" is \"hard\"", "\"soft\" or \"sampled\""}},
        {"{\"trained\": 3}", {"\"trained\" is 3", "\"all\", \"predictor\" or \"lora\""}},
        {"{\"predictor_kind\": \"mlp\"}", {"\"trunk\", \"linear\", \"static\" or \"static-layer\""}},
        {"{\"policy\": [\"spkv\"]}", {"\"policy\" is [\"spkv\"]", "a text of at most 1023 bytes"}},
        {"{\"steps\": 1, \"steps\": 2}", {"duplicate"}},
        {"[1]", {"object"}},
        {"{\"steps\": 1", {"not valid JSON"}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct schedule s = schedule_default();
        struct err err = {0};
        int rc = schedule_parse(cases[i].text, strlen(cases[i].text), "bad.json", &s, &err);
        assert_refused(rc, ERR_INPUT, &err, cases[i].parts);
        assert_string_equal(err.where, "bad.json");
    }
}

static void test_set(void **state) {
    static const struct {
        const char *key, *value, *parts[3];
    } refused[] = {
        {"stepz", "1", {"unknown key \"stepz\""}},
        {"steps", "", {"\"steps\" is \"\""}},
        {"steps", "12x", {"\"steps\" is \"12x\""}},
        {"steps", "99999999999999999999", {"\"steps\" is 1e20", "whole number"}},
        {"learning-rate", "nan", {"\"learning_rate\" is \"nan\""}},
        {"learning-rate", "1e999", {"\"learning_rate\" is \"1e999\""}},
        {"recompute", "yes", {"\"recompute\" is \"yes\"", "true or false"}},
        {"policy", "\xff", {"not valid UTF-8"}},
    };
    struct schedule s = schedule_default();
    struct err err = {0};
    char long_policy[1100];
    (void)state;
    must(schedule_set(&s, "learning-rate", ".5", &err), &err);
    must(schedule_set(&s, "steps", "1e3", &err), &err);
    must(schedule_set(&s, "recompute", "true", &err), &err);
    must(schedule_set(&s, "predictor_kind", "static-layer", &err), &err);
    must(schedule_set(&s, "policy", "layout:file=a.json", &err), &err);
    assert_true(s.learning_rate == 0.5 && s.steps == 1000 && s.recompute && s.predictor_kind == PREDICTOR_STATIC_LAYER);
    must(schedule_set(&s, "policy", "full", &err), &err);
    assert_string_equal(s.policy, "full");
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct err problem = {0};
        int rc = schedule_set(&s, refused[i].key, refused[i].value, &problem);
        assert_refused(rc, ERR_USAGE, &problem, refused[i].parts);
    }
    memset(long_policy, 'x', sizeof long_policy);
    long_policy[1023] = 0;
    must(schedule_set(&s, "policy", long_policy, &err), &err);
    long_policy[1023] = 'x';
    long_policy[1024] = 0;
    assert_int_equal(schedule_set(&s, "policy", long_policy, &err), ERR_USAGE);
}

static void test_refuse_contradictions(void **state) {
    static const struct {
        const char *text, *parts[5];
    } cases[] = {
        {"{}", {"\"steps\" is missing"}},
        {"{\"steps\": 10, \"warmup_steps\": 10}", {"\"warmup_steps\" is 10", "\"steps\" is 10"}},
        {"{\"steps\": 10, \"sequences\": 8, \"accumulation\": 3}", {"\"accumulation\" is 3", "\"sequences\" is 8"}},
        {"{\"steps\": 10, \"policy\": \"\"}", {"\"policy\" is \"\""}},
        {"{\"steps\": 10, \"policy\": \"full\", \"trained\": \"predictor\"}", {"\"trained\"", "\"full\"", "spkv"}},
        {"{\"steps\": 10, \"trained\": \"lora\"}", {"\"lora_r\" is 0"}},
        {"{\"steps\": 10, \"lora_r\": 8}", {"\"lora_r\" is 8", "not \"lora\""}},
        {"{\"steps\": 10, \"trained\": \"predictor\", \"lora_alpha\": 3}", {"\"lora_alpha\" is 3"}},
        {"{\"steps\": 10, \"policy\": \"spkv:sinks=4,window=8\"}", {"window=8", "give \"window\""}},
        {"{\"steps\": 10, \"policy\": \"spkv:threshold=0.7\"}", {"give \"threshold\""}},
        {"{\"steps\": 10, \"window\": 1024}", {"\"window\" is 1024", "\"context_len\" is 1024"}},
        {"{\"steps\": 10, \"predictor_hidden\": 9, \"predictor_kind\": \"linear\"}", {"\"predictor_hidden\" is 9"}},
        {"{\"steps\": 10, \"gates\": \"sampled\", \"sample_clip\": 0.5}", {"\"sample_clip\" is 0.5"}},
        {"{\"steps\": 10, \"trained\": \"predictor\", \"anneal_steps\": 2}", {"\"anneal_steps\" is 2", "there is none"}},
        {"{\"steps\": 10, \"gates\": \"sampled\", \"anneal_steps\": 2}", {"\"anneal_steps\" is 2", "\"sampled\""}},
        {"{\"steps\": 100, \"anneal_steps\": 25}", {"\"anneal_steps\" is 25", "25 of the 100", "at most 24"}},
        {"{\"steps\": 100, \"soft_frac\": 1}", {"\"soft_frac\" is 1", "0 of 100"}},
        {"{\"steps\": 4}", {"\"soft_frac\" is 0.75", "1 of 4"}},
        {"{\"steps\": 100, \"target_density\": 0.2}", {"\"target_density\" is 0.2", "\"density_weight\" is 0"}},
        {"{\"steps\": 100, \"density_ramp_steps\": 5}", {"\"density_ramp_steps\" is 5", "\"density_weight\" is 0"}},
        {"{\"steps\": 100, \"density_weight\": 1, \"density_ramp_steps\": 76}",
         {"\"density_ramp_steps\" is 76", "75 steps"}},
        {"{\"steps\": 100, \"density_weight\": 1, \"soft_frac\": 0}", {"\"soft_frac\" is 0", "never be trained"}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct schedule s = schedule_default();
        struct err err = {0};
        must(schedule_parse(cases[i].text, strlen(cases[i].text), "bad.json", &s, &err), &err);
        assert_refused(schedule_check(&s, "bad.json", &err), ERR_INPUT, &err, cases[i].parts);
        assert_string_equal(err.where, "bad.json");
    }
}

/* A dense twin is the same file with another policy. */
static void test_accept(void **state) {
    struct schedule s = make("{\"steps\": 100, \"density_weight\": 0.03, \"density_ramp_steps\": 75, \"anneal_steps\": 24}");
    struct err err = {0};
    (void)state;
    must(schedule_set(&s, "policy", "full", &err), &err);
    must(schedule_set(&s, "soft_frac", "1", &err), &err);
    must(schedule_check(&s, "", &err), &err);
    make("{\"steps\": 100, \"policy\": \"spkv:sinks=4\"}");
    make("{\"steps\": 2, \"trained\": \"predictor\", \"soft_frac\": 1}");
    make("{\"steps\": 2, \"soft_frac\": 0}");
    make("{\"steps\": 8}");
}

/* --- writing ---------------------------------------------------------------------------------------------------------- */

static void test_write(void **state) {
    struct schedule s = make("{\"steps\": 123, \"learning_rate\": 0.1, \"beta2\": 0.3333333333333333, \"policy\": "
                             "\"layout:file=\\u00e4 \\\"b\\\".json\", \"seed\": 9007199254740992, \"soft_frac\": 0}");
    struct schedule again = schedule_default();
    struct scratch dir;
    struct err err = {0};
    struct str one = {0}, two = {0};
    (void)state;
    scratch_open(&dir);
    must(schedule_write(&s, scratch_path(&dir, "s.json"), &err), &err);
    must(schedule_read(scratch_path(&dir, "s.json"), &again, &err), &err);
    assert_null(schedule_difference(&s, &again, true));
    schedule_format(&s, &one);
    schedule_format(&again, &two);
    assert_string_equal(str_text(&one), str_text(&two));
    assert_non_null(strstr(str_text(&one), "{\n \"steps\": 123,\n \"sequences\": 8,\n"));
    assert_non_null(strstr(str_text(&one), "\"learning_rate\": 0.1,\n"));
    assert_non_null(strstr(str_text(&one), "\"epsilon\": 1e-08,\n"));
    for (size_t i = 0; i < schedule_n_keys(); i++)
        assert_non_null(strstr(str_text(&one), schedule_key(i)->name));
    assert_int_equal(schedule_write(&s, scratch_path(&dir, "absent/s.json"), &err), ERR_IO);
    str_free(&one);
    str_free(&two);
    scratch_close(&dir);
}

static void test_difference(void **state) {
    struct schedule a = make("{\"steps\": 100}"), b = a;
    struct str text = {0};
    (void)state;
    b.save_every = 7;
    assert_null(schedule_difference(&a, &b, false));
    assert_string_equal(schedule_difference(&a, &b, true), "save_every");
    b.threshold = 0.7;
    b.predictor_kind = PREDICTOR_LINEAR;
    assert_string_equal(schedule_difference(&a, &b, false), "predictor_kind");
    schedule_format_value(&b, "predictor_kind", &text);
    assert_string_equal(str_text(&text), "\"linear\"");
    str_free(&text);
}

/* --- steps ------------------------------------------------------------------------------------------------------------ */

static void assert_point(const struct schedule *s, int64_t step, struct schedule_point expected) {
    struct schedule_point p = schedule_at(s, step);
    if (fabs(p.lr_model - expected.lr_model) > 1e-15 || fabs(p.lr_predictor - expected.lr_predictor) > 1e-15 ||
        p.mode != expected.mode || fabs(p.blend - expected.blend) > 1e-15 ||
        fabs(p.density_weight - expected.density_weight) > 1e-15 || p.freeze_predictor != expected.freeze_predictor)
        fail_msg("step %lld: lr %.17g %.17g mode %d blend %.17g density %.17g freeze %d", (long long)step, p.lr_model,
                 p.lr_predictor, (int)p.mode, p.blend, p.density_weight, p.freeze_predictor);
}

/* 10 steps of warm-up, 200 of cosine: soft to step 160, 5 annealed, then hard. */
static void test_phases(void **state) {
    struct schedule s = make("{\"steps\": 210, \"warmup_steps\": 10, \"learning_rate\": 0.01, \"final_lr_frac\": 0.2, "
                             "\"density_weight\": 0.5, \"density_ramp_steps\": 20, \"anneal_steps\": 5, "
                             "\"predictor_lr_factor\": 3}");
    (void)state;
    assert_int_equal(schedule_soft_steps(&s), 160);
    assert_point(&s, 1, (struct schedule_point){0.001, 0.003, GATES_SOFT, 0, 0.025, false});
    assert_point(&s, 10, (struct schedule_point){0.01, 0.03, GATES_SOFT, 0, 0.25, false});
    assert_point(&s, 20, (struct schedule_point){.lr_model = 0.01 * (0.2 + 0.4 * (1 + cos(acos(-1) * 0.05))),
                                                 .lr_predictor = 0.03 * (0.2 + 0.4 * (1 + cos(acos(-1) * 0.05))),
                                                 .density_weight = 0.5});
    assert_point(&s, 110, (struct schedule_point){0.006, 0.018, GATES_SOFT, 0, 0.5, false});
    double quarter = 0.01 * (0.2 + 0.4 * (1 - sqrt(0.5))), next = 0.01 * (0.2 + 0.4 * (1 + cos(acos(-1) * 151 / 200)));
    assert_point(&s, 160, (struct schedule_point){quarter, 3 * quarter, GATES_SOFT, 0, 0.5, false});
    assert_point(&s, 161, (struct schedule_point){next, 3 * next, GATES_ANNEALED, 0.2, 0, true});
    struct schedule_point last_soft = schedule_at(&s, 164), hard = schedule_at(&s, 165);
    assert_true(last_soft.mode == GATES_ANNEALED && fabs(last_soft.blend - 0.8) < 1e-15);
    assert_true(hard.mode == GATES_HARD && hard.blend == 1 && hard.freeze_predictor);
    assert_point(&s, 210, (struct schedule_point){0.002, 0.006, GATES_HARD, 1, 0, true});
}

static void test_derived(void **state) {
    struct schedule s = make("{\"steps\": 100, \"soft_frac\": 0.29}");
    (void)state;
    assert_int_equal(schedule_soft_steps(&s), 29);
    assert_int_equal(schedule_anneal_steps(&s), 23);
    s = make("{\"steps\": 100000}");
    assert_int_equal(schedule_anneal_steps(&s), 500);
    s = make("{\"steps\": 8}"); /* the shortest phase 2: hard in both of its steps */
    assert_true(schedule_at(&s, 6).mode == GATES_SOFT && schedule_at(&s, 7).mode == GATES_HARD);
    s = make("{\"steps\": 100, \"sequences\": 6, \"accumulation\": 3, \"context_len\": 200}");
    assert_int_equal(schedule_step_tok(&s), 1200);
    assert_true(schedule_gated(&s));
}

static void test_other_modes(void **state) {
    struct schedule s = make("{\"steps\": 100, \"gates\": \"sampled\"}");
    (void)state;
    assert_true(schedule_at(&s, 75).mode == GATES_SAMPLED && !schedule_at(&s, 75).freeze_predictor);
    assert_true(schedule_at(&s, 76).mode == GATES_HARD && schedule_at(&s, 76).freeze_predictor);
    s = make("{\"steps\": 100, \"trained\": \"predictor\", \"density_weight\": 0.1}");
    assert_true(schedule_at(&s, 100).mode == GATES_SOFT && !schedule_at(&s, 100).freeze_predictor);
    assert_true(schedule_at(&s, 100).density_weight == 0.1);
    s = make("{\"steps\": 100, \"policy\": \"window\", \"density_weight\": 0.1}");
    assert_false(schedule_gated(&s));
    assert_true(schedule_at(&s, 1).mode == GATES_HARD && schedule_at(&s, 1).freeze_predictor);
    assert_true(schedule_at(&s, 1).density_weight == 0);
    s = make("{\"steps\": 100, \"policy\": \"spkvx\"}");
    assert_false(schedule_gated(&s));
}

/* --- feedback --------------------------------------------------------------------------------------------------------- */

enum { N_GATES = 400 };

/* Gates whose loss falls by `value` when they open, trained by Adam on value against weight: their density at the end.
 * Values are spread over five orders of magnitude, evenly in their logarithm. */
static double simulate(const struct schedule *s) {
    double logit[N_GATES], m[N_GATES] = {0}, v[N_GATES] = {0}, late = 0;
    struct density_control control = density_control_start();
    int64_t n = schedule_soft_steps(s);
    for (int i = 0; i < N_GATES; i++)
        logit[i] = 5;
    for (int64_t step = 1; step <= n; step++) {
        double weight = schedule_at(s, step).density_weight * control.factor, density = 0;
        for (int i = 0; i < N_GATES; i++) {
            double u = 1 / (1 + exp(-logit[i])), value = pow(10, -4 + 5 * (i + 0.5) / N_GATES);
            double g = (weight - value) * u * (1 - u);
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.95 * v[i] + 0.05 * g * g;
            logit[i] -= 0.01 * m[i] / (1 - pow(0.9, (double)step)) / (sqrt(v[i] / (1 - pow(0.95, (double)step))) + 1e-8);
            density += (logit[i] >= 0) / (double)N_GATES;
        }
        control = density_control_next(s, control, density);
        late += step > n - n / 10 ? density : 0;
    }
    return late / (double)(n / 10);
}

static void test_feedback(void **state) {
    static const double targets[] = {0.2, 0.5}, weights[] = {0.03, 0.3};
    struct schedule s = make("{\"steps\": 4000, \"density_weight\": 0.1, \"density_ramp_steps\": 200}");
    (void)state;
    assert_true(fabs(simulate(&s) - 0.4) < 0.05); /* without a target: the gates worth more than the weight */
    for (int i = 0; i < 4; i++) {
        s.target_density = targets[i / 2];
        s.density_weight = weights[i % 2];
        double density = simulate(&s);
        printf("target %.1f from weight %.3f: density %.3f\n", s.target_density, s.density_weight, density);
        assert_true(fabs(density - s.target_density) < 0.05);
    }
}

static void test_feedback_edges(void **state) {
    struct schedule s = make("{\"steps\": 400, \"density_weight\": 0.1}");
    struct density_control c = density_control_start();
    (void)state;
    assert_true(density_control_next(&s, c, 0.3).factor == 1);
    s.target_density = 0.2;
    struct density_control same = density_control_next(&s, c, NAN);
    assert_true(same.factor == 1 && same.sum == 0 && same.n_steps == 1);
    for (int i = 0; i < 1000; i++) {
        c = density_control_next(&s, c, i < 500 ? 1 : 0);
        assert_true(c.factor >= 0.01 - 1e-12 && c.factor <= 100 + 1e-9);
    }
    assert_true(c.factor < 0.02);
}

/* --- the recipe ------------------------------------------------------------------------------------------------------- */

static bool lists(json_t *deviations, const char *part) {
    size_t i;
    json_t *line;
    json_array_foreach(deviations, i, line)
        if (strstr(json_string_value(line), part))
            return true;
    return false;
}

static void test_deviations(void **state) {
    struct schedule s = make("{\"steps\": 100000}");
    json_t *list = recipe_deviations(&s, 5000000000);
    (void)state;
    assert_int_equal(json_array_size(list), 0);
    json_decref(list);
    s = make("{\"steps\": 100, \"window\": 64, \"density_weight\": 0.03, \"density_ramp_steps\": 10, \"start_bias\": 3}");
    list = recipe_deviations(&s, 4096);
    assert_int_equal(json_array_size(list), 5);
    assert_true(lists(list, "4096 tokens") && lists(list, "window 64 (paper: 128)"));
    assert_true(lists(list, "start_bias 3 (paper: 5)"));
    assert_true(lists(list, "anneal_steps 8 (paper: about 500)") && lists(list, "density_weight 0.03, risen over 10 steps"));
    json_decref(list);
    s = make("{\"steps\": 100, \"policy\": \"full\"}");
    list = recipe_deviations(&s, 5000000000);
    assert_int_equal(json_array_size(list), 1);
    assert_true(lists(list, "policy full: no gates"));
    json_decref(list);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),          cmocka_unit_test(test_refuse_text),
        cmocka_unit_test(test_set),           cmocka_unit_test(test_refuse_contradictions),
        cmocka_unit_test(test_accept),        cmocka_unit_test(test_write),
        cmocka_unit_test(test_difference),    cmocka_unit_test(test_phases),
        cmocka_unit_test(test_derived),       cmocka_unit_test(test_other_modes),
        cmocka_unit_test(test_feedback),      cmocka_unit_test(test_feedback_edges),
        cmocka_unit_test(test_deviations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
