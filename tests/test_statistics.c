/* Ratios of sums against sums by hand over the invented run, missing values, corpora, and the speed of a large file. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "analyze/bootstrap.h"
#include "analyze/statistics.h"
#include "base/clock.h"
#include "base/file.h"
#include "tests/fake_run.h"
#include "tests/must.h"
#include "tests/scratch.h"

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__ || !defined __OPTIMIZE__
enum { SLOW_BUILD = 1 };
#else
enum { SLOW_BUILD = 0 };
#endif

static struct scratch scratch;

static char *in_dir(const char *name) {
    return scratch_path(&scratch, name);
}

static struct statistics compute(struct profile *p, int corpus) {
    struct err err = {0};
    struct statistics s;
    must(statistics_compute(p, corpus, &s, &err), &err);
    return s;
}

static void assert_ratio(double found, double part, double whole) {
    if (!(fabs(found - part / whole) <= 1e-12 * fabs(part / whole)))
        fail_msg("%.17g, expected %.17g", found, part / whole);
}

static const struct fake_run gated = {.n_sequences = 40, .score = PROFILE_SCORE_SIGMOID, .gates = true,
                                      .record = PROFILE_RECORD_CLASSES};

/* Everything by hand for one head or a set of them: layer < 0 or head < 0 means all; corpus likewise. */
struct by_hand {
    double scored, open, left, kept, resident, tokens, utility, visible, causal;
};

static struct by_hand add_up(const struct fake_run *run, int layer, int head, int corpus) {
    struct by_hand s = {0};
    for (size_t i = 0; i < run->n_sequences; i++)
        for (size_t h = 0; h < FAKE_LH; h++) {
            size_t l = h / FAKE_HEADS, k = h % FAKE_HEADS, n = fake_length(i), near = FAKE_WINDOW + FAKE_SINKS;
            if (l == FAKE_SLIDING || (layer >= 0 && l != (size_t)layer) || (head >= 0 && k != (size_t)head) ||
                (corpus >= 0 && fake_corpus(i) != (uint32_t)corpus))
                continue;
            double kept = 0;
            for (size_t t = 0; t < n; t++) {
                s.scored++;
                s.utility += fake_utility(run, i, l, k, t);
                s.open += fake_open(run, i, l, k, t);
                kept += t >= FAKE_SINKS && t + FAKE_WINDOW < n && fake_open(run, i, l, k, t);
            }
            s.left += n > near ? (double)(n - near) : 0;
            s.kept += kept;
            s.resident += (double)(n < near ? n : near) + kept;
            s.tokens += (double)n;
            s.visible += (double)(n + i % 3);
            s.causal += (double)(n * (n + 1) / 2);
        }
    return s;
}

static void check_against(const struct head_sums *sums, const struct by_hand *s) {
    assert_ratio(head_gate_density(sums), s->open, s->scored);
    assert_ratio(head_long_density(sums), s->kept, s->left);
    assert_ratio(head_kv_fraction(sums), s->resident, s->tokens);
    assert_ratio(head_read_fraction(sums), s->visible, s->causal);
    assert_ratio(head_mean_utility(sums), s->utility, s->scored);
}

static void test_ratios(void **state) {
    (void)state;
    struct profile *p = fake_profile(in_dir("gated.h5"), &gated);
    for (int corpus = -1; corpus < 2; corpus++) {
        struct statistics s = compute(p, corpus);
        struct by_hand hand;
        for (int layer = 0; layer < FAKE_LAYERS; layer += 2) {
            for (int head = 0; head < FAKE_HEADS; head++) {
                hand = add_up(&gated, layer, head, corpus);
                check_against(&s.heads[layer * FAKE_HEADS + head], &hand);
            }
            hand = add_up(&gated, layer, -1, corpus);
            check_against(&s.layers[layer], &hand);
        }
        hand = add_up(&gated, -1, -1, corpus);
        check_against(&s.total, &hand);
        assert_true(isnan(head_long_density(&s.layers[FAKE_SLIDING])));
        assert_true(isnan(head_kv_fraction(&s.heads[FAKE_SLIDING * FAKE_HEADS])));
        assert_true(isnan(head_read_fraction(&s.layers[FAKE_SLIDING])));
        assert_true(isnan(head_far_attention(&s.total)));
        statistics_free(&s);
    }
    profile_close(p);
}

static void test_losses_and_bytes(void **state) {
    (void)state;
    struct profile *p = fake_profile(in_dir("losses.h5"), &gated);
    struct statistics s = compute(p, -1);
    double nll = 0, predicted = 0, tokens = 0, full = 0, right = 0, answers = 0, exact = 0;
    for (size_t i = 0; i < gated.n_sequences; i++) {
        double own = 0;
        size_t n = 0, n_right = 0, length = fake_length(i);
        for (size_t t = 0; t < length; t++)
            if (!isnan(fake_nll(i, t))) {
                own += fake_nll(i, t);
                n++;
                n_right += fake_is_argmax(i, t);
            }
        nll += own;
        predicted += (double)n;
        right += (double)n_right;
        answers += n > 0 && n + 1 < length; /* token 5 of the longer ones is not predicted */
        exact += n > 0 && n + 1 < length && n == n_right;
        tokens += (double)fake_length(i);
        full += 5000 + (double)i;
    }
    assert_ratio(statistics_nll(&s), nll, predicted);
    assert_ratio(statistics_argmax(&s), right, predicted);
    assert_ratio(statistics_exact(&s), exact, answers);
    assert_true(answers < 40 && exact > 0 && exact < answers);
    assert_true((double)s.n_tokens == tokens && (double)s.cache_bytes_full == full);
    assert_int_equal(s.cache_bytes_allocated, 40 * 4096);
    assert_int_equal(s.shortest, 2);
    assert_true(s.longest <= FAKE_MAX_LENGTH && s.longest > 60);
    statistics_free(&s);
    profile_close(p);
}

static void test_measure(void **state) {
    (void)state;
    struct err err = {0};
    struct head_measure m;
    struct profile *p = fake_profile(in_dir("m.h5"), &gated);
    struct statistics s = compute(p, -1);
    must(head_measure_compute(&s, profile_meta(p), &m, &err), &err);
    assert_int_equal(m.kind, HEAD_MEASURE_DENSITY);
    struct by_hand hand = add_up(&gated, 2, 1, -1);
    assert_ratio(m.value[2 * FAKE_HEADS + 1], hand.kept, hand.left);
    assert_true(isnan(m.value[FAKE_SLIDING * FAKE_HEADS]) && m.sliding[FAKE_SLIDING] && !m.sliding[0]);
    head_measure_free(&m);
    statistics_free(&s);
    profile_close(p);
    struct fake_run dense = {.n_sequences = 11, .record = PROFILE_RECORD_ATTENTION};
    p = fake_profile(in_dir("dense.h5"), &dense);
    s = compute(p, -1);
    must(head_measure_compute(&s, profile_meta(p), &m, &err), &err);
    assert_int_equal(m.kind, HEAD_MEASURE_FAR_ATTENTION);
    double far = 0, queries = 0;
    for (size_t i = 0; i < 11; i++) {
        far += fake_far(i, 2, 0);
        queries += (double)fake_length(i);
    }
    assert_ratio(m.value[2 * FAKE_HEADS], far, queries);
    assert_ratio(head_sink_attention(&s.total), 0.25, 1);
    assert_true(isnan(head_gate_density(&s.total)));
    head_measure_free(&m);
    statistics_free(&s);
    profile_close(p);
    dense.record = 0;
    p = fake_profile(in_dir("plain.h5"), &dense);
    s = compute(p, -1);
    must(head_measure_compute(&s, profile_meta(p), &m, &err), &err);
    assert_int_equal(m.kind, HEAD_MEASURE_NONE);
    assert_true(isnan(m.value[0]));
    head_measure_free(&m);
    statistics_free(&s);
    profile_close(p);
}

static void test_bins(void **state) {
    (void)state;
    struct err err = {0};
    struct bin_density d;
    struct profile *p = fake_profile(in_dir("bins.h5"), &gated);
    must(statistics_positions(p, -1, &d, &err), &err);
    double open = 0, scored = 0, class_open = 0, class_scored = 0;
    for (size_t i = 0; i < gated.n_sequences; i++)
        for (size_t t = 0; t < fake_length(i); t++)
            for (size_t k = 0; k < FAKE_HEADS; k++) {
                bool is_open = fake_open(&gated, i, 2, k, t);
                if (t >= 8 && t < 16) {
                    scored++;
                    open += is_open;
                }
                if (fake_class(i, t) == 3 && fake_corpus(i) == 1 && k == 1) {
                    class_scored++;
                    class_open += is_open;
                }
            }
    assert_ratio(bin_density_share(&d, FAKE_LAYERS, FAKE_HEADS, 2, -1, 4), open, scored);
    assert_true(isnan(bin_density_share(&d, FAKE_LAYERS, FAKE_HEADS, FAKE_SLIDING, -1, 4)));
    bin_density_free(&d);
    must(statistics_classes(p, 1, &d, &err), &err);
    assert_int_equal(d.n_bins, FAKE_N_CLASSES);
    assert_ratio(bin_density_share(&d, FAKE_LAYERS, FAKE_HEADS, 2, 1, 3), class_open, class_scored);
    bin_density_free(&d);
    profile_close(p);
}

/* Sequences shorter than the window never lose a pair: no density, not 0 and not 1. */
static void test_nothing_left(void **state) {
    (void)state;
    struct head_sums sums = {.n_scored = 5, .n_open = 5, .n_tok = 5, .n_resident = 5};
    assert_true(isnan(head_long_density(&sums)));
    assert_ratio(head_kv_fraction(&sums), 1, 1);
    assert_ratio(head_gate_density(&sums), 1, 1);
}

/* 10,000 sequences of 32 layers x 8 heads, two a document: the summary with intervals of four ratios takes less than two
 * seconds of processor time. */
static void test_large(void **state) {
    (void)state;
    enum { L = 32, K = 8, N = 10000 };
    struct err err = {0};
    struct profile_meta meta;
    struct profile_writer *w;
    struct profile *p;
    fake_meta(&(struct fake_run){.gates = true}, &meta);
    meta.n_layers = L;
    meta.n_kv_heads = K;
    meta.sliding_window = NULL;
    meta.max_length = 4096;
    struct profile_writer_options options = {.segment_sequences = 5000, .segment_seconds = 1e6};
    must(profile_writer_create(in_dir("large.h5"), &meta, &options, &w, &err), &err);
    static uint32_t left[L * K], kept[L * K];
    static uint64_t visible[L * K];
    static uint8_t open[100 * L * K];
    uint64_t sum = 0;
    for (uint32_t i = 0; i < N; i++) {
        struct profile_sequence sequence = {.index = i, .document = i / 2, .n_tok = 100};
        for (uint32_t h = 0; h < L * K; h++) {
            left[h] = 50;
            kept[h] = (i * 2654435761u + h * 40503u) >> 20 & 31;
            visible[h] = 1000 + kept[h];
            sum += kept[h];
        }
        struct profile_gates gates = {.sequence = &sequence, .n = 100, .open = open, .layer_stride = 100 * K};
        struct profile_counters counters = {.sequence = &sequence, .n_predicted = 99, .nll_sum = 1, .n_left_window = left,
                                            .n_kept = kept, .visible_pairs = visible};
        must(profile_writer_add_gates(w, &gates, &err), &err);
        must(profile_writer_add_sequence(w, &counters, &err), &err);
        must(profile_writer_end_batch(w, i, &err), &err);
    }
    uint64_t start = clock_us();
    must(profile_writer_finish(w, &(struct profile_end){N, 0}, &err), &err);
    profile_writer_free(w);
    uint64_t joined = clock_us();
    clock_t used = clock();
    must(profile_open(in_dir("large.h5"), &p, &err), &err);
    struct statistics s = compute(p, -1);
    double sums = (double)(clock() - used) / CLOCKS_PER_SEC;
    struct bootstrap b;
    struct intervals intervals;
    must(bootstrap_draw(1, BOOTSTRAP_RESAMPLES, s.n_cells, &b, &err), &err);
    for (int i = RATIO_GATE_DENSITY; i <= RATIO_READ_FRACTION; i++) {
        must(bootstrap_intervals(&b, &s, (enum head_ratio)i, 0.95, &intervals, &err), &err);
        intervals_free(&intervals);
    }
    bootstrap_free(&b);
    double seconds = (double)(clock() - used) / CLOCKS_PER_SEC;
    print_message("10,000 sequences x 32 x 8: joined in %.2f s, summarised in %.2f s of processor time, with intervals %.2f\n",
                  (double)(joined - start) / 1e6, sums, seconds);
    assert_true(SLOW_BUILD || seconds < 2);
    assert_int_equal(s.n_documents, N / 2);
    assert_int_equal(s.n_cells, STATISTICS_MAX_CELLS);
    assert_int_equal(s.total.n_kept, sum);
    assert_int_equal(s.total.n_left_window, (uint64_t)N * L * K * 50);
    statistics_free(&s);
    profile_close(p);
}

/* Pieces of one document that do not follow one another would be taken for two documents. */
static void test_document_order(void **state) {
    (void)state;
    struct err err = {0};
    struct profile_meta meta;
    struct profile_writer *w;
    struct profile *p;
    struct statistics s;
    static const uint32_t counts[FAKE_LH];
    static const uint64_t visible[FAKE_LH];
    fake_meta(&(struct fake_run){0}, &meta);
    must(profile_writer_create(in_dir("order.h5"), &meta, &(struct profile_writer_options){0}, &w, &err), &err);
    for (uint32_t i = 0; i < 3; i++) {
        struct profile_sequence sequence = {.index = i, .document = i % 2, .n_tok = 5};
        struct profile_counters counters = {.sequence = &sequence, .n_predicted = 4, .nll_sum = 1, .n_left_window = counts,
                                            .n_kept = counts, .visible_pairs = visible};
        must(profile_writer_add_sequence(w, &counters, &err), &err);
    }
    must(profile_writer_end_batch(w, 0, &err), &err);
    must(profile_writer_finish(w, &(struct profile_end){3, 0}, &err), &err);
    profile_writer_free(w);
    must(profile_open(in_dir("order.h5"), &p, &err), &err);
    assert_int_equal(statistics_compute(p, -1, &s, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "sequence_document: document 0 follows document 1"));
    assert_string_equal(err.where, in_dir("order.h5"));
    assert_null(s.heads);
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
        cmocka_unit_test(test_ratios),       cmocka_unit_test(test_losses_and_bytes), cmocka_unit_test(test_measure),
        cmocka_unit_test(test_bins),         cmocka_unit_test(test_nothing_left),     cmocka_unit_test(test_large),
        cmocka_unit_test(test_document_order),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
