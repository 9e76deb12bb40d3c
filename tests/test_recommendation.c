/* Budgets, the cost model and its CSV, windows out of attention mass, stability, and a whole recommendation. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "analyze/recommendation.h"
#include "analyze/window_choice.h"
#include "base/file.h"
#include "tests/fake_run.h"
#include "tests/must.h"
#include "tests/scratch.h"

static struct scratch scratch;

static char *in_dir(const char *name) {
    return scratch_path(&scratch, name);
}

/* -- budgets ---------------------------------------------------------------------------------------------------------- */

enum { L = 4, K = 2, DIM = 8, ELEMENT = 2, PAIR = 2 * DIM * ELEMENT };
static const uint32_t sliding_window[L] = {0, 0, 16, 0};
static const bool sliding[L] = {false, false, true, false};

static struct layout *all_local(const uint32_t *windows) {
    struct err err = {0};
    struct layout *x;
    must(layout_create(L, K, sliding, 30, 2, &x, &err), &err);
    if (windows) {
        x->windows = malloc(L * K * sizeof *windows);
        memcpy(x->windows, windows, L * K * sizeof *windows);
    }
    return x;
}

static int heads_for(struct budget budget, const uint32_t *windows, size_t *n, struct err *err) {
    struct layout *x = all_local(windows);
    int rc = budget_heads(&budget, x, DIM, ELEMENT, sliding_window, n, err);
    layout_free(x);
    return rc;
}

static void assert_heads(struct budget budget, const uint32_t *windows, size_t expected) {
    struct err err = {0};
    size_t n = 99;
    must(heads_for(budget, windows, &n, &err), &err);
    assert_int_equal(n, expected);
}

static void test_budgets(void **state) {
    (void)state;
    struct err err = {0};
    size_t n;
    assert_heads((struct budget){.kind = BUDGET_HEADS, .amount = 6}, NULL, 6);
    assert_int_equal(heads_for((struct budget){.kind = BUDGET_HEADS, .amount = 7}, NULL, &n, &err), ERR_USAGE);
    assert_heads((struct budget){.kind = BUDGET_HEAD_SHARE, .amount = 0.25}, NULL, 2); /* 1.5 */
    /* At 100 tokens: 6 heads of 32 pairs and two of 16 are 224; a global head holds 68 more. */
    struct budget bytes = {.kind = BUDGET_KV_BYTES, .context = 100, .amount = (224 + 2 * 68) * PAIR};
    assert_heads(bytes, NULL, 2);
    bytes.amount -= 1;
    assert_heads(bytes, NULL, 1);
    bytes.amount = 223 * PAIR;
    err = (struct err){0};
    assert_int_equal(heads_for(bytes, NULL, &n, &err), ERR_INPUT);
    bytes.context = 20; /* shorter than the window: a global head costs nothing more */
    bytes.amount = (6 * 20 + 2 * 16) * PAIR;
    assert_heads(bytes, NULL, 6);
    struct budget share = {.kind = BUDGET_KV_SHARE, .context = 100, .amount = 1};
    assert_heads(share, NULL, 6);
    share.amount = (224 + 3 * 68) / 632.0; /* of six heads of 100 and two of 16 */
    assert_heads(share, NULL, 3);
    share.amount -= 1e-6;
    assert_heads(share, NULL, 2);
    /* Windows of their own: heads with the shortest windows cost most to make global, and those are counted. */
    uint32_t windows[L * K] = {8, 8, 98, 98, 16, 16, 98, 98};
    struct budget own = {.kind = BUDGET_KV_BYTES, .context = 100, .amount = (2 * 10 + 4 * 100 + 32 + 89) * PAIR};
    assert_heads(own, windows, 0);
    own.amount += PAIR;
    assert_heads(own, windows, 1);
    struct cost_model cost = {.base_s = 0.01, .per_byte_s = 1e-6, .batch = 4};
    struct budget time = {.kind = BUDGET_DECODE_TIME, .context = 100, .cost = &cost,
                          .amount = 0.01 + 4e-6 * (224 + 68 * 4) * PAIR};
    assert_heads(time, NULL, 4);
    assert_true(fabs(cost_model_step(&cost, 1000) - 0.014) < 1e-15);
    time.amount = 0.009;
    err = (struct err){0};
    assert_int_equal(heads_for(time, NULL, &n, &err), ERR_INPUT);
}

/* -- the cost model --------------------------------------------------------------------------------------------------- */

#define HEADER "what,policy,batch,context_tok,median_tok_per_s,kv_bytes,command\n"

static void test_cost_model(void **state) {
    (void)state;
    /* 4 sequences a step: 20 ms and 2 ns a byte; other batches and prefill rows do not count. */
    static const char text[] = HEADER "decode,full,4,512,181.81818181818181,1000000,\"spkv bench \"\"m\"\", x\"\n"
                                      "prefill,full,4,512,99999,77,x\r\n"
                                      "decode,full,1,512,3,55,x\n\n"
                                      "decode,\"layout:file=a,b\",4,4096,133.33333333333334,5000000,x";
    struct err err = {0};
    struct cost_model m;
    must(cost_model_parse(text, strlen(text), "b.csv", 4, &m, &err), &err);
    assert_int_equal(m.n_rows, 2);
    assert_true(fabs(m.base_s - 0.020) < 1e-12 && fabs(m.per_byte_s - 2e-9) < 1e-18);
    assert_true(m.worst_frac < 1e-12 && m.largest_bytes == 5e6);
    assert_int_equal(cost_model_parse(text, strlen(text), "b.csv", 1, &m, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "1 decode rows for a batch of 1"));
}

static void test_bad_csv(void **state) {
    (void)state;
    static const struct {
        const char *text, *where, *says;
    } cases[] = {
        {"", "b.csv:1", "no header"},
        {"what,batch,kv_bytes\n", "b.csv", "no column \"median_tok_per_s\""},
        {HEADER, "b.csv", "0 decode rows"},
        {HEADER "decode,full\n", "b.csv:2", "fewer fields"},
        {HEADER "decode,full,1,512,fast,1000,x\n", "b.csv:2", "median_tok_per_s is \"fast\""},
        {HEADER "decode,full,1,512,1,-5,x\n", "b.csv:2", "kv_bytes is \"-5\""},
        {HEADER "decode,full,1,512,1,nan,x\n", "b.csv:2", "kv_bytes"},
        {HEADER "decode,full,1,512,1,1e999,x\n", "b.csv:2", "kv_bytes"},
        {HEADER "decode,full,,512,1,5,x\n", "b.csv:2", "batch is \"\""},
        {HEADER "\n\ndecode,\"full,1,512,1,5,x\n", "b.csv:4", "quote"},
        {HEADER "decode,\"full\"x,1,512,1,5,x\n", "b.csv:2", "quote"},
        {HEADER "decode,\"full", "b.csv:2", "quote"},
        {HEADER "decode,f,1,5,10,100,x\ndecode,f,1,5,11,100,x\n", "b.csv", "two different"},
        {HEADER "decode,f,1,5,10,100,x\ndecode,f,1,5,20,200,x\n", "b.csv", "not get slower"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = {0};
        struct cost_model m;
        if (cost_model_parse(cases[i].text, strlen(cases[i].text), "b.csv", 1, &m, &err) != ERR_INPUT ||
            !strstr(err.message, cases[i].says) || strcmp(err.where, cases[i].where) != 0)
            fail_msg("case %zu: %s: %s", i, err.where, err.message);
    }
    struct err err = {0};
    struct cost_model m;
    size_t n = 100000;
    char *text = malloc(n);
    memset(text, 'x', n);
    assert_int_equal(cost_model_parse(text, n, "b.csv", 1, &m, &err), ERR_INPUT);
    memset(text, 0, n);
    err = (struct err){0};
    assert_int_equal(cost_model_parse(text, n, "b.csv", 1, &m, &err), ERR_INPUT);
    free(text);
    err = (struct err){0};
    assert_int_equal(cost_model_read(in_dir("absent.csv"), 1, &m, &err), ERR_IO);
}

/* -- windows ---------------------------------------------------------------------------------------------------------- */

/* One sequence of 60 tokens. Of 100 of mass every head has 60 at distance 0, 30 far away at distance 20, and 10 on sinks at
 * distance 33; head (2, 1) has all of it at distance 5. */
static struct profile *one_sequence(struct statistics *s) {
    struct err err = {0};
    struct profile_meta meta;
    struct profile_writer *w;
    struct profile *p;
    static uint32_t counts[FAKE_LH];
    static uint64_t visible[FAKE_LH];
    static double far[FAKE_LH], sink[FAKE_LH], distance[FAKE_LH * 64];
    fake_meta(&(struct fake_run){.record = PROFILE_RECORD_ATTENTION}, &meta);
    size_t n_bins = meta.n_distance_edges - 1;
    for (size_t h = 0; h < FAKE_LH; h++)
        for (size_t bin = 0; bin < n_bins && h / FAKE_HEADS != FAKE_SLIDING; bin++) {
            uint32_t low = meta.distance_edges[bin], high = meta.distance_edges[bin + 1];
            bool last = h == FAKE_LH - 1;
            distance[h * n_bins + bin] = last ? (low <= 5 && 5 < high) * 100.0
                                              : (low == 0) * 60.0 + (low <= 20 && 20 < high) * 30.0 +
                                                    (low <= 33 && 33 < high) * 10.0;
            far[h] = last ? 0 : 30;
            sink[h] = last ? 0 : 10;
        }
    struct profile_sequence sequence = {.n_tok = 60};
    struct profile_counters counters = {.sequence = &sequence, .n_predicted = 59, .nll_sum = 1, .n_left_window = counts,
                                        .n_kept = counts, .visible_pairs = visible, .far_sum = far, .sink_sum = sink,
                                        .distance_sum = distance};
    must(profile_writer_create(in_dir("one.h5"), &meta, &(struct profile_writer_options){.force = true}, &w, &err), &err);
    must(profile_writer_add_sequence(w, &counters, &err), &err);
    must(profile_writer_end_batch(w, 0, &err), &err);
    must(profile_writer_finish(w, &(struct profile_end){1, 0}, &err), &err);
    profile_writer_free(w);
    must(profile_open(in_dir("one.h5"), &p, &err), &err);
    must(statistics_compute(p, -1, s, &err), &err);
    return p;
}

static void assert_windows(struct profile *p, const struct statistics *s, double share, enum window_scope scope, bool sinks,
                           uint32_t usual, uint32_t last) {
    struct err err = {0};
    uint32_t *found;
    must(window_choose(p, s, share, scope, sinks, &found, &err), &err);
    uint32_t before = scope == WINDOW_PER_LAYER ? last : usual;
    uint32_t expected[FAKE_LH] = {usual, usual, 16, 16, before, last};
    for (int i = 0; i < FAKE_LH; i++)
        if (found[i] != expected[i])
            fail_msg("share %g, head %d: window %u, expected %u", share, i, found[i], expected[i]);
    free(found);
}

static void test_windows(void **state) {
    (void)state;
    struct err err = {0};
    struct statistics s;
    struct profile *p = one_sequence(&s);
    assert_windows(p, &s, 0.6, WINDOW_PER_HEAD, false, 1, 6);
    assert_windows(p, &s, 0.61, WINDOW_PER_HEAD, false, 24, 6); /* edges 20, 24 */
    assert_windows(p, &s, 0.7, WINDOW_PER_HEAD, true, 1, 6);    /* sinks are kept */
    assert_windows(p, &s, 0.95, WINDOW_PER_HEAD, false, 40, 6); /* edges 32, 40 */
    assert_windows(p, &s, 0.95, WINDOW_PER_HEAD, true, 24, 6);
    assert_windows(p, &s, 0.8, WINDOW_PER_LAYER, false, 24, 6);  /* layer 2: 60 + 100 of 200 within 6 */
    assert_windows(p, &s, 0.81, WINDOW_PER_LAYER, false, 24, 24);
    assert_windows(p, &s, 0, WINDOW_PER_HEAD, false, 1, 1);
    statistics_free(&s);
    profile_close(p);
    struct fake_run plain = {.n_sequences = 3};
    uint32_t *found;
    p = fake_profile(in_dir("plain.h5"), &plain);
    must(statistics_compute(p, -1, &s, &err), &err);
    assert_int_equal(window_choose(p, &s, 0.9, WINDOW_PER_HEAD, false, &found, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "attention_distance"));
    assert_null(found);
    statistics_free(&s);
    profile_close(p);
}

/* -- stability -------------------------------------------------------------------------------------------------------- */

enum { CELLS = 40, N = L * K };

/* Documents of 100 pairs a head; kept[i] of head i, and what every other document adds to it. */
static void invent(struct statistics *s, const double *kept, const double *every_other) {
    static struct head_sums cells[CELLS * N];
    *s = (struct statistics){.n_layers = L, .n_kv_heads = K, .n_documents = CELLS, .n_cells = CELLS, .max_cells = CELLS,
                             .cells = cells, .n_tokens = 1000};
    for (size_t i = 0; i < CELLS * N; i++)
        cells[i] = (struct head_sums){.n_left_window = 100,
                                      .n_kept = (uint64_t)(kept[i % N] + (i / N % 2 ? every_other[i % N] : 0))};
}

static struct stability stability_of(const struct statistics *s, size_t n_global) {
    struct err err = {0};
    double value[N];
    struct bootstrap b;
    struct stability out;
    for (size_t i = 0; i < N; i++) {
        struct head_sums sums = {0};
        for (size_t cell = 0; cell < s->n_cells; cell++) {
            sums.n_kept += s->cells[cell * N + i].n_kept;
            sums.n_left_window += s->cells[cell * N + i].n_left_window;
        }
        value[i] = head_long_density(&sums);
    }
    struct strategy_input input = {.n_layers = L, .n_kv_heads = K, .value = value, .window = 8};
    must(bootstrap_draw(3, 500, s->n_cells, &b, &err), &err);
    must(stability_compute(strategy_find("densest-heads"), &input, n_global, s, RATIO_LONG_DENSITY, &b, &out, &err), &err);
    bootstrap_free(&b);
    return out;
}

static void test_stability(void **state) {
    (void)state;
    struct statistics s;
    double none[N] = {0}, clear[N] = {90, 80, 10, 10, 10, 10, 10, 70}, alike[N] = {90, 80, 40, 10, 10, 10, 10, 42};
    invent(&s, clear, none);
    struct stability x = stability_of(&s, 3);
    assert_true(x.judged && x.enough && x.n_stable == 3 && x.halves_overlap == 1 && x.factor == 1);
    assert_true(x.share[0] == 1 && x.share[7] == 1 && x.share[2] == 0);
    stability_free(&x);
    /* Head 7 lies 2 above head 2 on average: by 0 and 4, by turns, so never below it: a tie goes to the lower head. */
    double by_turns[N] = {0, 0, 4, 0, 0, 0, 0, 0};
    invent(&s, alike, by_turns); /* head 2: 40 or 44; head 7: 42: equal on average, head 2 is lower */
    x = stability_of(&s, 3);
    assert_true(x.judged && !x.enough && x.n_stable == 2 && x.halves_overlap == 2.0 / 3);
    assert_true(x.share[2] > 0.4 && x.share[2] < 0.7 && fabs(x.share[2] + x.share[7] - 1) < 1e-12);
    assert_true(x.factor > 50); /* the two are alike: more text will not do */
    stability_free(&x);
    /* Head 7 has 43 now and head 2 has 42 with a deviation of 2: 1 / (2 / sqrt 40) = 3.16 standard errors, stable. With 10
     * documents it is 1.58, and (1.645 / 1.58)^2 = 1.08 times as many would do. */
    alike[7] = 43;
    invent(&s, alike, by_turns);
    x = stability_of(&s, 3);
    assert_true(x.enough && x.n_stable == 3);
    stability_free(&x);
    s.n_cells = 10;
    x = stability_of(&s, 3);
    assert_true(x.share[7] > 0.88 && x.share[7] < 0.99);
    assert_true(x.enough ? x.factor == 1 : x.factor > 1 && x.factor < 2.1);
    stability_free(&x);
    s.n_cells = 1;
    x = stability_of(&s, 3);
    assert_false(x.judged);
    stability_free(&x);
}

/* -- all together ----------------------------------------------------------------------------------------------------- */

static void test_recommendation(void **state) {
    (void)state;
    struct err err = {0};
    struct fake_run run = {.n_sequences = 60, .score = PROFILE_SCORE_SIGMOID, .gates = true};
    struct profile *p;
    struct statistics s;
    struct head_measure measure;
    struct recommendation r;
    uint64_t contexts[] = {64, 4096};
    double learned[FAKE_LH] = {0.1, 0.2, NAN, NAN, 0.9, 0.3}, imported[FAKE_LH] = {0, 1, 0, 0, 0, 0};
    struct head_ranking rankings[] = {{"learned", "model/", learned, 0}, {"imported", "layout.json", imported, 1}};
    p = fake_profile(in_dir("run.h5"), &run);
    must(statistics_compute(p, -1, &s, &err), &err);
    must(head_measure_compute(&s, profile_meta(p), &measure, &err), &err);
    struct recommendation_input input = {.meta = profile_meta(p), .statistics = &s, .measure = &measure,
                                         .budget = {.kind = BUDGET_HEADS, .amount = 2}, .window = 8, .sinks = 2,
                                         .rankings = rankings, .n_rankings = 2, .least = 1, .n_draws = 20,
                                         .contexts = contexts, .n_contexts = 2, .wanted = "densest-heads"};
    must(recommendation_compute(&input, &r, &err), &err);
    assert_int_equal(r.n, 9);
    assert_true(r.n_eligible == 4 && r.n_global == 2 && r.is_ranking && r.stability.judged);
    for (size_t i = 0; i < r.n; i++) {
        assert_int_equal(layout_n_global(r.rows[i].layout), 2);
        assert_int_equal(layout_n_global(r.rows[i].layers), 2);
        assert_true(r.rows[i].coverage <= r.rows[r.chosen].coverage + 1e-12);
        if (strcmp(layout_strategy(r.rows[i].layout), "random") == 0) {
            assert_int_equal(r.rows[i].n_draws, 20);
            assert_true(r.rows[i].coverage_sd > 0 && r.rows[i].coverage_low < r.rows[i].coverage &&
                        r.rows[i].coverage < r.rows[i].coverage_high);
        }
    }
    const struct layout *l = r.rows[7].layout, *i = r.rows[8].layout;
    assert_string_equal(layout_strategy(l), "learned");
    assert_true(layout_head(l, 2, 0) == HEAD_GLOBAL && layout_head(l, 2, 1) == HEAD_GLOBAL);
    assert_true(layout_head(i, 0, 1) == HEAD_GLOBAL && layout_head(i, 0, 0) == HEAD_GLOBAL);
    assert_int_equal(json_array_size(json_object_get(i->made_by, "changed_to_fit")), 1);
    recommendation_free(&r);
    input.wanted = "far-attention";
    assert_int_equal(recommendation_compute(&input, &r, &err), ERR_USAGE);
    input.wanted = "random";
    err = (struct err){0};
    must(recommendation_compute(&input, &r, &err), &err);
    assert_false(r.is_ranking);
    recommendation_free(&r);
    head_measure_free(&measure);
    statistics_free(&s);
    profile_close(p);
}

static int setup(void **state) {
    (void)state;
    scratch_open(&scratch);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    scratch_close(&scratch);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budgets),   cmocka_unit_test(test_cost_model), cmocka_unit_test(test_bad_csv),
        cmocka_unit_test(test_windows),   cmocka_unit_test(test_stability),  cmocka_unit_test(test_recommendation),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
