/* test_model.c - every family and policy against PyTorch (tests/data/models): logits, losses, utilities, gates, kept pairs,
 * visible pairs, attention statistics, future attention; for several chunk sizes, batches and backends (equal up to rounding, as chunking
 * only reorders sums). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "engine/session.h"
#include "kernels/cpu/cpu.h"
#include "tests/backends.h"
#include "tests/cuda_on_cpu/cuda_on_cpu.h"
#include "tests/model_case.h"
#include "tests/must.h"

enum { MAX_CASES = 64 };

struct setting {
    const char *name;
    const struct ops *ops;
    enum dtype dtype;
    int chunk, n_threads;
    bool together; /* all sequences in one batch */
    double logit_tolerance, nll_tolerance, utility_tolerance;
};

/* The largest differences seen under one setting, for the log. */
struct worst {
    double logits, nll, utility, future;
};

static double largest(const struct tensor *tensor) {
    double out = 0;
    for (size_t i = 0; i < tensor->n_items; i++)
        out = fmax(out, fabs(expected_at(tensor, i)));
    return out;
}

/* Everything one test run needs at hand. */
struct check {
    const struct setting *setting;
    const struct model_case *model;
    const struct policy *policy;
    const char *policy_name;
    struct session *session;
    struct worst *worst;
};

static void compare(const struct check *c, int sequence, const char *what, size_t at, double got, double want,
                    double tolerance, double *worst) {
    double difference = fabs(got - want);
    if (isnan(want))
        return;
    if (!(difference <= tolerance))
        fail_msg("%s, %s, chunk %d, sequence %d, policy %s, %s[%zu]: %.9g, expected %.9g (tolerance %.3g)", c->model->dir,
                 c->setting->name, c->setting->chunk, sequence, c->policy_name, what, at, got, want, tolerance);
    *worst = fmax(*worst, difference);
}

/* The last row's logits, when the case stores that row. bf16 may pick another token only where the reference is close. */
static void check_logits(const struct check *c, int sequence, int row, const float *logits) {
    const struct tensor *expected = model_case_expected(c->model, sequence, c->policy_name, "logits");
    const struct case_sequence *s = &c->model->sequences[sequence];
    size_t vocab = (size_t)checkpoint_config(c->model->checkpoint)->vocab_size;
    for (int r = 0; r < s->n_logit_rows; r++) {
        double scale = largest(expected), error = 0, best = -INFINITY, second = -INFINITY;
        size_t argmax = 0, got = 0;
        if (s->logit_rows[r] != row)
            continue;
        for (size_t i = 0; i < vocab; i++) {
            double want = expected_at(expected, (size_t)r * vocab + i);
            compare(c, sequence, "logits", (size_t)row * vocab + i, (double)logits[i], want,
                    c->setting->logit_tolerance * scale, &error);
            got = logits[i] > logits[got] ? i : got;
            argmax = want > best ? i : argmax;
            second = want > best ? best : fmax(second, want);
            best = fmax(best, want);
        }
        c->worst->logits = fmax(c->worst->logits, error / scale);
        if (best - second > 2 * error)
            assert_int_equal(got, argmax);
    }
}

static void check_nll(const struct check *c, int sequence, int first, int n, const float *nll) {
    const struct tensor *expected = model_case_expected(c->model, sequence, c->policy_name, "nll");
    for (int j = 0; j < n; j++)
        if (first + j + 1 < c->model->sequences[sequence].n_tok)
            compare(c, sequence, "nll", (size_t)(first + j + 1), (double)nll[j],
                    expected_at(expected, (size_t)(first + j + 1)), c->setting->nll_tolerance, &c->worst->nll);
}

/* Utilities and gates of rows `row` .. of the step, which are tokens first .. of the sequence. */
static void check_gates(const struct check *c, int sequence, int first, int n, size_t n_rows, size_t row,
                        const float *utility, const uint8_t *open) {
    const struct model_config *config = checkpoint_config(c->model->checkpoint);
    const struct tensor *u = model_case_expected(c->model, sequence, c->policy_name, "utility");
    const struct tensor *z = model_case_expected(c->model, sequence, c->policy_name, "open");
    size_t kv = (size_t)config->n_kv_heads;
    for (int l = 0; u && l < config->n_layers; l++)
        for (size_t i = 0; i < (size_t)n * kv && config->layers[l].sliding_window == 0; i++) {
            size_t from = ((size_t)l * n_rows + row) * kv + i;
            size_t at = (((size_t)first + i / kv) * (size_t)config->n_layers + (size_t)l) * kv + i % kv;
            /* The sigmoid's slope is at most 1/4: without it the same error of the sum is four times as large. */
            double tolerance = c->setting->utility_tolerance * (c->policy->scores == SCORE_REAL ? 4 : 1);
            compare(c, sequence, "utility", at, (double)utility[from], expected_at(u, at), tolerance, &c->worst->utility);
            if (c->setting->dtype != DTYPE_BF16 && (double)open[from] != expected_at(z, at))
                fail_msg("%s, %s, sequence %d, policy %s: gate %zu is %d", c->model->dir, c->setting->name, sequence,
                         c->policy_name, at, open[from]);
        }
}

static bool step_all(const struct check *c, int first, int n_in_step, const int *sequences) {
    int slots[CASE_MAX_SEQUENCES], n_tok[CASE_MAX_SEQUENCES], n = 0, rows = 0;
    const int32_t *tokens[CASE_MAX_SEQUENCES];
    int32_t target[CASE_MAX_SEQUENCES * CASE_MAX_TOKENS];
    float nll[CASE_MAX_SEQUENCES * CASE_MAX_TOKENS];
    struct err err = {0};
    for (int i = 0; i < n_in_step; i++) {
        const struct case_sequence *s = &c->model->sequences[sequences[i]];
        int left = s->n_tok - first, take = left < c->setting->chunk ? left : c->setting->chunk;
        if (take <= 0)
            continue;
        slots[n] = i;
        tokens[n] = s->tokens + first;
        n_tok[n++] = take;
        for (int j = 0; j < take; j++)
            target[rows++] = first + j + 1 < s->n_tok ? s->tokens[first + j + 1] : -1;
    }
    if (n == 0)
        return false;
    const float *utility, *logits;
    const uint8_t *open;
    must(session_feed(c->session, &(struct feed){n, slots, tokens, n_tok}, &err), &err);
    must(session_nll(c->session, target, nll, NULL, &err), &err);
    must(session_gates(c->session, &utility, &open, &err), &err);
    must(session_logits(c->session, &logits, &err), &err);
    for (int i = 0, row = 0; i < n; row += n_tok[i++]) {
        int sequence = sequences[slots[i]];
        check_nll(c, sequence, first, n_tok[i], nll + row);
        check_gates(c, sequence, first, n_tok[i], (size_t)rows, (size_t)row, utility, open);
        check_logits(c, sequence, first + n_tok[i] - 1,
                     logits + (size_t)i * (size_t)checkpoint_config(c->model->checkpoint)->vocab_size);
    }
    return true;
}

static void check_counts(const struct check *c, int slot, int sequence) {
    const struct model_config *config = checkpoint_config(c->model->checkpoint);
    const struct tensor *kept = model_case_expected(c->model, sequence, c->policy_name, "kept");
    const struct tensor *pairs = model_case_expected(c->model, sequence, c->policy_name, "visible_pairs");
    size_t lanes = (size_t)config->n_layers * (size_t)config->n_kv_heads;
    uint32_t *n_kept = calloc(lanes, sizeof *n_kept);
    uint64_t *visible = calloc(lanes, sizeof *visible);
    struct kv_counts counts = {.n_kept = n_kept, .visible_pairs = visible};
    struct err err = {0};
    must(kv_cache_read_counts(session_cache(c->session), slot, &counts, &err), &err);
    must(kv_cache_check(session_cache(c->session), &err), &err);
    for (size_t i = 0; i < lanes && c->setting->dtype != DTYPE_BF16; i++) {
        double want = 0;
        for (int t = 0; t < c->model->sequences[sequence].n_tok; t++)
            want += expected_at(kept, (size_t)t * lanes + i);
        if ((double)n_kept[i] != want || (double)visible[i] != expected_at(pairs, i))
            fail_msg(
                "%s, %s, chunk %d, sequence %d, policy %s, head %zu: kept %u, expected %g; visible pairs %llu, expected %g",
                c->model->dir, c->setting->name, c->setting->chunk, sequence, c->policy_name, i, n_kept[i], want,
                (unsigned long long)visible[i], expected_at(pairs, i));
    }
    free(n_kept);
    free(visible);
}

static void check_attention(const struct check *c, int slot, int sequence) {
    const struct tensor *far = model_case_expected(c->model, sequence, c->policy_name, "far_attention");
    const struct tensor *sink = model_case_expected(c->model, sequence, c->policy_name, "sink_attention");
    const double *far_sum = session_far_sum(c->session, slot), *sink_sum = session_sink_sum(c->session, slot);
    double seen = 0;
    for (size_t i = 0; far && far_sum && i < far->n_items; i++) {
        /* Sums of up to n_tok probabilities, each off by about the logits' error. */
        double tolerance = c->setting->nll_tolerance * c->model->sequences[sequence].n_tok;
        compare(c, sequence, "far_attention", i, far_sum[i], expected_at(far, i), tolerance, &seen);
        compare(c, sequence, "sink_attention", i, sink_sum[i], expected_at(sink, i), tolerance, &seen);
    }
}

static void check_future(const struct check *c, int slot, int sequence) {
    const struct tensor *max = model_case_expected(c->model, sequence, c->policy_name, "future_max");
    const struct tensor *mean = model_case_expected(c->model, sequence, c->policy_name, "future_mean");
    const struct model_config *config = checkpoint_config(c->model->checkpoint);
    size_t layers = (size_t)config->n_layers, kv = (size_t)config->n_kv_heads;
    size_t n_tok = (size_t)c->model->sequences[sequence].n_tok;
    const float *got_max, *got_mean;
    double seen = 0;
    struct err err = {0};
    if (strcmp(c->policy_name, "full") != 0)
        return;
    assert_true(max && mean && max->n_items == n_tok * layers * kv);
    must(session_future(c->session, slot, &got_max, &got_mean, &err), &err);
    for (size_t i = 0; i < max->n_items; i++) {
        size_t from = (i / kv % layers * n_tok + i / kv / layers) * kv + i % kv;
        if (isnan(got_max[from]) != isnan(expected_at(max, i)) || isnan(got_mean[from]) != isnan(expected_at(mean, i)))
            fail_msg("%s, %s, sequence %d: future attention [%zu] is %g, expected %g", c->model->dir, c->setting->name,
                     sequence, i, (double)got_max[from], expected_at(max, i));
        /* One probability, off by about the logits' error, and a mean of such. */
        double tolerance = c->setting->nll_tolerance;
        compare(c, sequence, "future_max", i, (double)got_max[from], expected_at(max, i), tolerance, &seen);
        compare(c, sequence, "future_mean", i, (double)got_mean[from], expected_at(mean, i), tolerance, &seen);
    }
    c->worst->future = fmax(c->worst->future, seen);
}

/* Feeds sequences (one, or all together) and compares everything. */
static void run_policy(const struct check *given, const struct model *model, int n_sequences, const int *sequences) {
    struct check c = *given;
    struct err err = {0};
    int max_len = 1;
    for (int i = 0; i < n_sequences; i++)
        max_len = c.model->sequences[sequences[i]].n_tok > max_len ? c.model->sequences[sequences[i]].n_tok : max_len;
    struct session_options options = {
        .n_slots = n_sequences, .max_len = max_len, .max_rows = (size_t)n_sequences * (size_t)c.setting->chunk,
        .policy = c.policy, .attention_stats = strcmp(c.policy_name, "full") == 0,
        .future_attention = strcmp(c.policy_name, "full") == 0};
    must(session_create(model, &options, &c.session, &err), &err);
    for (int i = 0; i < n_sequences; i++)
        session_reset(c.session, i, (uint64_t)sequences[i]);
    for (int first = 0; step_all(&c, first, n_sequences, sequences); first += c.setting->chunk)
        ;
    for (int i = 0; i < n_sequences; i++) {
        check_counts(&c, i, sequences[i]);
        check_attention(&c, i, sequences[i]);
        check_future(&c, i, sequences[i]);
    }
    session_free(c.session);
}

/* The bar for bf16 is 2e-2 of the largest logit. One random model amplifies the rounding of operands more than that in
 * transformers too (tests/data/bf16_deviation.json): there its own deviation is the bar. */
static double bf16_tolerance(const char *name) {
    json_t *table = json_load_file("tests/data/bf16_deviation.json", 0, NULL);
    double own = json_number_value(json_object_get(table, name));
    assert_non_null(table);
    json_decref(table);
    return fmax(2e-2, own);
}

static void run_case(const char *name, const struct setting *given, struct worst *worst) {
    static const int all[CASE_MAX_SEQUENCES] = {0, 1, 2, 3, 4, 5, 6, 7};
    struct model_case model_case;
    struct device *dev = NULL;
    struct model *model = NULL;
    struct err err = {0};
    const char *policy_name;
    json_t *policy_json;
    struct setting own = *given, *setting = &own;
    if (own.dtype == DTYPE_BF16)
        own.logit_tolerance = bf16_tolerance(name);
    model_case_open(name, &model_case);
    must(setting->ops->open(&(struct device_options){.n_threads = setting->n_threads, .dtype = setting->dtype}, &dev, &err),
         &err);
    must(model_load(model_case.checkpoint, setting->ops, dev, &model, &err), &err);
    json_object_foreach(json_object_get(model_case.json, "policies"), policy_name, policy_json) {
        struct policy *policy = model_case_policy(&model_case, policy_name);
        /* A gate near the threshold may flip in bf16, and all after it differs: only fixed sets are compared there. */
        if (setting->dtype == DTYPE_BF16 && policy->scorer == SCORER_PREDICTOR) {
            policy_free(policy);
            continue;
        }
        struct check check = {.setting = setting, .model = &model_case, .policy = policy, .policy_name = policy_name, .worst = worst};
        if (setting->together)
            run_policy(&check, model, model_case.n_sequences, all);
        for (int i = 0; !setting->together && i < model_case.n_sequences; i++)
            run_policy(&check, model, 1, &i);
        policy_free(policy);
    }
    model_free(model);
    setting->ops->close(dev);
    model_case_close(&model_case);
}

static void test_setting(void **state) {
    const struct setting *setting = *state;
    char names[MAX_CASES][64];
    int n = model_case_list(names, MAX_CASES);
    struct worst worst = {0};
    assert_in_range(n, 15, MAX_CASES);
    if (!setting->ops || !backend_opens(setting->ops, setting->dtype, NULL)) {
        print_message("SKIP %s: this machine cannot run it\n", setting->name);
        skip();
    }
    int step = backend_in_full(setting->ops) ? 1 : 6; /* else some families, others in each setting */
    for (int i = setting->chunk % step; i < n; i += step)
        run_case(names[i], setting, &worst);
    print_message("%s, chunk %d: largest error: logits %.2g of the largest, loss %.2g nat, utility %.2g, future attention %.2g\n",
                  setting->name, setting->chunk, worst.logits, worst.nll, worst.utility, worst.future);
}

int main(void) {
    cuda_on_cpu_guard(false); /* many launches over much memory; the guard backend runs the same engine */
    /* f32: sums of up to some hundred products in another order, and logits of up to about 10: 1e-4 of the largest logit. bf16:
     * 8 bits of mantissa in operands and cache. */
    const struct setting f32 = {.dtype = DTYPE_F32, .logit_tolerance = 1e-4, .nll_tolerance = 1e-4, .utility_tolerance = 1e-5};
    const struct setting bf16 = {.dtype = DTYPE_BF16, .nll_tolerance = 0.5, .utility_tolerance = 0.2};
    const struct {
        const char *name;
        const struct ops *ops;
        const struct setting *base;
        int chunk, n_threads;
        bool together;
    } list[] = {
        {"ref, one by one, chunk 512", ops_ref(), &f32, 512, 1, false},
        {"ref, one by one, chunk 7", ops_ref(), &f32, 7, 1, false},
        {"ref, batch, chunk 1", ops_ref(), &f32, 1, 1, true},
        {"guard, batch, chunk 64", ops_guard(), &f32, 64, 1, true},
        {"scalar, batch, chunk 7", ops_cpu_variant("scalar"), &f32, 7, 2, true},
        {"avx2, one by one, chunk 64", ops_cpu_variant("avx2"), &f32, 64, 1, false},
        {"avx512, one by one, chunk 1", ops_cpu_variant("avx512"), &f32, 1, 1, false},
        {"avx512, batch, chunk 512", ops_cpu_variant("avx512"), &f32, 512, 2, true},
        {"ref bf16, batch, chunk 64", ops_ref(), &bf16, 64, 1, true},
        {"cuda emulated, batch, chunk 64", ops_cuda_emulated(), &f32, 64, 1, true},
        {"cuda emulated, one by one, chunk 512", ops_cuda_emulated(), &f32, 512, 1, false},
        {"cuda emulated bf16, batch, chunk 33", ops_cuda_emulated(), &bf16, 33, 1, true},
        {"cuda, batch, chunk 64", ops_cuda(), &f32, 64, 1, true},
        {"cuda, batch, chunk 1", ops_cuda(), &f32, 1, 1, true},
        {"cuda bf16, one by one, chunk 512", ops_cuda(), &bf16, 512, 1, false},
        {"amx bf16, one by one, chunk 512", ops_cpu_variant("amx"), &bf16, 512, 2, false},
        {"amx bf16, batch, chunk 1", ops_cpu_variant("amx"), &bf16, 1, 2, true},
    };
    enum { N = sizeof list / sizeof *list };
    struct setting settings[N];
    struct CMUnitTest tests[N];
    for (int i = 0; i < N; i++) {
        settings[i] = *list[i].base;
        settings[i].name = list[i].name;
        settings[i].ops = list[i].ops;
        settings[i].chunk = list[i].chunk;
        settings[i].n_threads = list[i].n_threads;
        settings[i].together = list[i].together;
        tests[i] = (struct CMUnitTest){list[i].name, test_setting, NULL, NULL, &settings[i]};
    }
    return _cmocka_run_group_tests("models against PyTorch", tests, N, NULL, NULL);
}
