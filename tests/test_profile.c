/* The run file: what is written comes back, killed and sharded runs equal undisturbed ones, hostile files are refused. */
#include <fcntl.h>
#include <hdf5.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "analyze/bins.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "tests/fake_run.h"
#include "tests/must.h"
#include "tests/scratch.h"

static struct scratch scratch;

static char *in_dir(const char *name) {
    return scratch_path(&scratch, name);
}

static void record(const char *path, const struct fake_run *run) {
    struct err err = {0};
    must(fake_record(path, run, &err), &err);
}

static struct profile *open_run(const char *path) {
    struct err err = {0};
    struct profile *p = NULL;
    must(profile_open(path, &p, &err), &err);
    return p;
}

/* Expects a failure with this code whose message holds all the words (NULL-ended). */
static void expect_error(int rc, const struct err *err, int code, const char *const *words) {
    if (rc != code)
        fail_msg("code %d, expected %d: %s: %s", rc, code, err->where, err->message);
    for (; *words; words++)
        if (!strstr(err->message, *words) && !strstr(err->where, *words))
            fail_msg("\"%s: %s\" does not say \"%s\"", err->where, err->message, *words);
}
#define WORDS(...) (const char *const[]){__VA_ARGS__, NULL}

/* Every dataset of two profiles, byte for byte. */
static void assert_equal_profiles(struct profile *a, struct profile *b) {
    struct err err = {0};
    assert_int_equal(profile_n_sequences(a), profile_n_sequences(b));
    assert_int_equal(profile_n_tokens(a), profile_n_tokens(b));
    for (int i = 0; i < PROFILE_N_FIELDS; i++) {
        enum profile_field field = (enum profile_field)i;
        void *x = NULL, *y = NULL;
        assert_int_equal(profile_has(a, field), profile_has(b, field));
        if (!profile_has(a, field))
            continue;
        size_t items = profile_row_items(a, field), bytes = items * profile_item_bytes(a, field);
        bool sum = field >= PROFILE_UTILITY_HISTOGRAM && field <= PROFILE_ATTENTION_DISTANCE;
        size_t n = sum ? 1 : field >= PROFILE_TOKEN_ID ? profile_n_tokens(a) : profile_n_sequences(a);
        if (sum) {
            must(profile_read_sum(a, field, &x, &err), &err);
            must(profile_read_sum(b, field, &y, &err), &err);
        } else {
            x = malloc(n * bytes + 1);
            y = malloc(n * bytes + 1);
            must(profile_read_rows(a, field, 0, n, x, &err), &err);
            must(profile_read_rows(b, field, 0, n, y, &err), &err);
        }
        if (memcmp(x, y, n * bytes) != 0)
            fail_msg("%s differs", profile_field_name(field));
        free(x);
        free(y);
    }
    for (size_t row = 0; profile_has(a, PROFILE_TOKEN_ID) && row < profile_n_sequences(a); row++) {
        uint64_t first[2];
        size_t n[2];
        must(profile_token_range(a, row, &first[0], &n[0], &err), &err);
        must(profile_token_range(b, row, &first[1], &n[1], &err), &err);
        assert_int_equal(first[0], first[1]);
        assert_int_equal(n[0], n[1]);
    }
}

static void assert_equal_files(const char *a, const char *b) {
    struct profile *x = open_run(a), *y = open_run(b);
    assert_equal_profiles(x, y);
    profile_close(y);
    profile_close(x);
}

static void print_problem(void *self, const char *text) {
    (void)self;
    print_message("%s\n", text);
}

static void assert_sound(const char *path) {
    struct err err = {0};
    size_t n = 99;
    must(profile_check(path, print_problem, NULL, &n, &err), &err);
    assert_int_equal(n, 0);
}

static const struct fake_run everything = {
    .n_sequences = 29, .score = PROFILE_SCORE_SIGMOID, .gates = true, .chunk = 7, .segment_sequences = 6,
    .record = PROFILE_RECORD_CLASSES | PROFILE_RECORD_TOKENS | PROFILE_RECORD_UTILITY | PROFILE_RECORD_OPEN |
              PROFILE_RECORD_ATTENTION,
};

/* The bin of a score by walking the edges. */
static size_t bin_by_walking(const float *edge, size_t n_edges, float x) {
    size_t bin = 0;
    while (bin + 2 < n_edges && x >= edge[bin + 1])
        bin++;
    return bin;
}

static void test_score_bins(void **state) {
    (void)state;
    struct score_bins bins;
    for (int kind = 0; kind < 3; kind++) {
        score_bins_init(&bins, kind == 0, kind == 2 ? -9.3 : 0, kind == 2 ? 1.7 : 0);
        assert_int_equal(bins.n_bins, kind == 0 ? 64 : 66);
        for (size_t i = 0; i <= bins.n_bins; i++)
            for (int step = -1; step <= 1; step++) {
                float x = step ? nextafterf(bins.edge[i], step * INFINITY) : bins.edge[i];
                x = kind == 0 ? fminf(fmaxf(x, 0), 1) : x;
                assert_int_equal(score_bin(&bins, x), bin_by_walking(bins.edge, bins.n_bins + 1, x));
            }
        for (int i = 0; i < 200000; i++) {
            float x = kind == 0 ? (float)i / 199999 : -40 + 80 * (float)i / 199999;
            assert_int_equal(score_bin(&bins, x), bin_by_walking(bins.edge, bins.n_bins + 1, x));
        }
        assert_int_equal(score_bin(&bins, NAN), 0);
        assert_int_equal(score_bin(&bins, INFINITY), bins.n_bins - 1);
        assert_int_equal(score_bin(&bins, -INFINITY), 0);
    }
    for (uint32_t p = 0; p < 70000; p++) {
        size_t bin = position_bin(p);
        assert_true(position_edge(bin) <= p && p < position_edge(bin + 1));
    }
}

static void test_distance_edges(void **state) {
    (void)state;
    static const uint32_t expected[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40};
    uint32_t edge[128];
    size_t n = profile_distance_edges(33, edge, 128);
    assert_int_equal(n, sizeof expected / sizeof *expected);
    assert_memory_equal(edge, expected, sizeof expected);
    n = profile_distance_edges(UINT32_MAX, edge, 128);
    assert_true(n < 128 && edge[n - 1] > 1u << 31);
    assert_int_equal(profile_distance_edges(8, edge, 128), 9);
}

/* Sums of the fake run over what belongs to one slot, from its definition alone. */
struct expected {
    uint64_t scored, open;
    double utility;
};

static struct expected expect_head(const struct fake_run *run, size_t i, size_t layer, size_t head) {
    struct expected e = {0};
    for (size_t t = 0; layer != FAKE_SLIDING && run->gates && t < fake_length(i); t++) {
        e.scored++;
        e.open += fake_open(run, i, layer, head, t);
        e.utility += fake_utility(run, i, layer, head, t);
    }
    return e;
}

static void check_rows(struct profile *p, const struct fake_run *run) {
    struct err err = {0};
    size_t n = run->n_sequences;
    uint32_t *scored = calloc(n * FAKE_LH, 4), *open = calloc(n * FAKE_LH, 4), *length = calloc(n, 4);
    uint64_t *index = calloc(n, 8), *document = calloc(n, 8);
    double *utility = calloc(n * FAKE_LH, 8);
    must(profile_read_rows(p, PROFILE_N_SCORED, 0, n, scored, &err), &err);
    must(profile_read_rows(p, PROFILE_N_OPEN, 0, n, open, &err), &err);
    must(profile_read_rows(p, PROFILE_SEQUENCE_LENGTH, 0, n, length, &err), &err);
    must(profile_read_rows(p, PROFILE_SEQUENCE_INDEX, 0, n, index, &err), &err);
    must(profile_read_rows(p, PROFILE_SEQUENCE_DOCUMENT, 0, n, document, &err), &err);
    if (run->score != PROFILE_SCORE_NONE)
        must(profile_read_rows(p, PROFILE_UTILITY_SUM, 0, n, utility, &err), &err);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(index[i], i);
        assert_int_equal(length[i], fake_length(i));
        assert_int_equal(document[i], fake_document(i));
        for (size_t h = 0; h < FAKE_LH; h++) {
            struct expected e = expect_head(run, i, h / FAKE_HEADS, h % FAKE_HEADS);
            assert_int_equal(scored[i * FAKE_LH + h], e.scored);
            assert_int_equal(open[i * FAKE_LH + h], e.open);
            if (run->score != PROFILE_SCORE_NONE)
                assert_true(utility[i * FAKE_LH + h] == e.utility);
        }
    }
    free(utility), free(document), free(index), free(length), free(open), free(scored);
}

/* Adds up one summed field from the definition: bin_of says where a token goes. */
static void check_sum(struct profile *p, const struct fake_run *run, enum profile_field field, bool open_only,
                      int bin_kind) {
    struct err err = {0};
    size_t n_edges, n_bins = profile_row_items(p, field) / (2 * PROFILE_N_GROUPS * FAKE_LH);
    const float *edge = profile_utility_edges(p, &n_edges);
    uint64_t *expected = calloc(profile_row_items(p, field), 8);
    void *found;
    for (size_t i = 0; i < run->n_sequences; i++)
        for (size_t h = 0; h < FAKE_LH; h++)
            for (size_t t = 0; h / FAKE_HEADS != FAKE_SLIDING && run->gates && t < fake_length(i); t++) {
                size_t slice = (fake_corpus(i) * PROFILE_N_GROUPS + fake_document(i) % 16) * FAKE_LH + h;
                float u = fake_utility(run, i, h / FAKE_HEADS, h % FAKE_HEADS, t);
                size_t power = 0;
                while (((size_t)1 << power) <= t)
                    power++;
                size_t bin = bin_kind == 0 ? bin_by_walking(edge, n_edges, u) : bin_kind == 1 ? power : fake_class(i, t);
                if (!open_only || fake_open(run, i, h / FAKE_HEADS, h % FAKE_HEADS, t))
                    expected[slice * n_bins + bin]++;
            }
    must(profile_read_sum(p, field, &found, &err), &err);
    assert_memory_equal(found, expected, profile_row_items(p, field) * 8);
    free(found);
    free(expected);
}

static void test_read_back(void **state) {
    (void)state;
    const char *path = in_dir("back.h5");
    record(path, &everything);
    assert_false(file_exists(in_dir("back.h5.part")));
    struct profile *p = open_run(path);
    const struct profile_meta *meta = profile_meta(p);
    assert_int_equal(profile_n_sequences(p), 29);
    assert_false(profile_is_partial(p));
    assert_string_equal(meta->policy, "spkv");
    assert_string_equal(meta->policy_parameters, "{\"window\": 8, \"threshold\": 0.5, \"note\": \"gr\xc3\xbc\xc3\x9f\"}");
    assert_int_equal(meta->sliding_window[FAKE_SLIDING], 16);
    assert_int_equal(meta->n_dropped_tails, 4);
    assert_int_equal(meta->pool_peak_bytes, 1 << 16);
    assert_string_equal(meta->sources[2].name, "c.jsonl");
    assert_int_equal(meta->sources[2].corpus, 1);
    assert_string_equal(meta->class_names[4], "word_start");
    check_rows(p, &everything);
    check_sum(p, &everything, PROFILE_UTILITY_HISTOGRAM, false, 0);
    check_sum(p, &everything, PROFILE_POSITION_SCORED, false, 1);
    check_sum(p, &everything, PROFILE_POSITION_OPEN, true, 1);
    check_sum(p, &everything, PROFILE_CLASS_SCORED, false, 2);
    check_sum(p, &everything, PROFILE_CLASS_OPEN, true, 2);
    profile_close(p);
    assert_sound(path);
}

static void test_tokens(void **state) {
    (void)state;
    struct err err = {0};
    struct fake_run run = everything;
    run.record ^= PROFILE_RECORD_UTILITY | PROFILE_RECORD_UTILITY_U8;
    record(in_dir("u8.h5"), &run);
    record(in_dir("f32.h5"), &everything);
    struct profile *p = open_run(in_dir("f32.h5")), *rounded = open_run(in_dir("u8.h5"));
    for (size_t i = 0; i < run.n_sequences; i++) {
        uint64_t first;
        size_t n;
        int32_t id[FAKE_MAX_LENGTH];
        float nll[FAKE_MAX_LENGTH], utility[FAKE_MAX_LENGTH * FAKE_LH];
        uint8_t open[FAKE_MAX_LENGTH * FAKE_LH], byte[FAKE_MAX_LENGTH * FAKE_LH], is_argmax[FAKE_MAX_LENGTH];
        uint32_t n_argmax, n_right = 0;
        must(profile_token_range(p, i, &first, &n, &err), &err);
        assert_int_equal(n, fake_length(i));
        must(profile_read_rows(p, PROFILE_TOKEN_ID, first, n, id, &err), &err);
        must(profile_read_rows(p, PROFILE_TOKEN_NLL, first, n, nll, &err), &err);
        must(profile_read_rows(p, PROFILE_N_ARGMAX, i, 1, &n_argmax, &err), &err);
        must(profile_read_rows(p, PROFILE_TOKEN_IS_ARGMAX, first, n, is_argmax, &err), &err);
        must(profile_read_rows(p, PROFILE_TOKEN_UTILITY, first, n, utility, &err), &err);
        must(profile_read_rows(p, PROFILE_TOKEN_OPEN, first, n, open, &err), &err);
        must(profile_read_rows(rounded, PROFILE_TOKEN_UTILITY, first, n, byte, &err), &err);
        for (size_t t = 0; t < n; t++) {
            assert_int_equal(id[t], fake_token(i, t));
            assert_true(isnan(nll[t]) ? isnan(fake_nll(i, t)) : nll[t] == fake_nll(i, t));
            assert_int_equal(is_argmax[t], isnan(nll[t]) ? 255 : fake_is_argmax(i, t));
            n_right += !isnan(nll[t]) && fake_is_argmax(i, t);
            for (size_t h = 0; h < FAKE_LH; h++) {
                bool sliding = h / FAKE_HEADS == FAKE_SLIDING;
                float u = fake_utility(&run, i, h / FAKE_HEADS, h % FAKE_HEADS, t);
                assert_true(sliding ? isnan(utility[t * FAKE_LH + h]) : utility[t * FAKE_LH + h] == u);
                assert_int_equal(byte[t * FAKE_LH + h], sliding ? 255 : (int)floorf(254 * u + 0.5f));
                assert_int_equal(open[t * FAKE_LH + h],
                                 sliding ? 255 : fake_open(&run, i, h / FAKE_HEADS, h % FAKE_HEADS, t));
            }
        }
        assert_int_equal(n_argmax, n_right);
    }
    profile_close(rounded);
    profile_close(p);
    assert_sound(in_dir("u8.h5"));
}

static void test_attention(void **state) {
    (void)state;
    struct err err = {0};
    struct fake_run run = {.n_sequences = 10, .record = PROFILE_RECORD_ATTENTION};
    record(in_dir("dense.h5"), &run);
    struct profile *p = open_run(in_dir("dense.h5"));
    assert_false(profile_has(p, PROFILE_UTILITY_SUM));
    assert_true(isnan(profile_meta(p)->threshold));
    double far[10 * FAKE_LH], *bins, total = 0;
    uint64_t queries[10 * FAKE_LH];
    size_t n_bins;
    must(profile_read_rows(p, PROFILE_FAR_ATTENTION_SUM, 0, 10, far, &err), &err);
    must(profile_read_rows(p, PROFILE_ATTENTION_QUERIES, 0, 10, queries, &err), &err);
    for (size_t i = 0; i < 10; i++)
        for (size_t h = 0; h < FAKE_LH; h++) {
            bool sliding = h / FAKE_HEADS == FAKE_SLIDING;
            assert_true(far[i * FAKE_LH + h] == (sliding ? 0 : fake_far(i, h / FAKE_HEADS, h % FAKE_HEADS)));
            assert_int_equal(queries[i * FAKE_LH + h], sliding ? 0 : fake_length(i));
        }
    must(profile_read_bins(p, PROFILE_ATTENTION_DISTANCE, -1, &bins, &n_bins, &err), &err);
    for (size_t i = 0; i < 10; i++)
        total += fake_distance(i, 2, 1, 1);
    assert_true(fabs(bins[5 * n_bins + 1] - total) < 1e-5);
    free(bins);
    profile_close(p);
    assert_sound(in_dir("dense.h5"));
}

static void test_real_scores(void **state) {
    (void)state;
    struct fake_run run = {.n_sequences = 8, .score = PROFILE_SCORE_REAL, .gates = true, .chunk = 1};
    record(in_dir("real.h5"), &run);
    struct profile *p = open_run(in_dir("real.h5"));
    check_rows(p, &run);
    check_sum(p, &run, PROFILE_UTILITY_HISTOGRAM, false, 0);
    profile_close(p);
    assert_sound(in_dir("real.h5"));
}

static void test_chunks_do_not_matter(void **state) {
    (void)state;
    struct fake_run run = everything;
    record(in_dir("chunk7.h5"), &run);
    run.chunk = 1;
    run.segment_sequences = 1;
    record(in_dir("chunk1.h5"), &run);
    run.chunk = 0;
    run.segment_sequences = 1000;
    record(in_dir("chunk0.h5"), &run);
    assert_equal_files(in_dir("chunk7.h5"), in_dir("chunk1.h5"));
    assert_equal_files(in_dir("chunk7.h5"), in_dir("chunk0.h5"));
}

/* Stops after 1, 2, ... batches, politely or not, and goes on until done. */
static void test_resume(void **state) {
    (void)state;
    struct err err = {0};
    struct fake_run run = everything;
    record(in_dir("whole.h5"), &run);
    for (int way = 0; way < 6; way++) {
        run = everything;
        run.abandon = way & 1;
        run.segment_sequences = way < 2 ? 1 : 6;
        run.stop_after = way < 4 ? 3 : 1;
        const char *path = in_dir(way & 1 ? "killed.h5" : "stopped.h5");
        record(path, &run);
        assert_false(file_exists(path));
        if (!(run.abandon && run.stop_after == 1))
            assert_sound(way & 1 ? in_dir("killed.h5.part") : in_dir("stopped.h5.part"));
        expect_error(fake_record(path, &run, &err), &err, ERR_EXISTS, WORDS("--resume", ".part"));
        err = (struct err){0};
        struct profile *p;
        expect_error(profile_open(path, &p, &err), &err, ERR_IO, WORDS("interrupted", "--resume"));
        err = (struct err){0};
        run.resume = true;
        run.seed = 5;
        if (!(run.abandon && run.stop_after == 1)) {
            expect_error(fake_record(path, &run, &err), &err, ERR_INPUT, WORDS("seed", "5", "0"));
            err = (struct err){0};
        }
        run.seed = 0;
        record(path, &run); /* a second interruption */
        run.stop_after = 0;
        record(path, &run);
        assert_equal_files(path, in_dir("whole.h5"));
        record(path, &run); /* nothing left to do */
        run.resume = false;
        expect_error(fake_record(path, &run, &err), &err, ERR_EXISTS, WORDS("--force"));
        err = (struct err){0};
        run.force = true;
        record(path, &run);
        assert_equal_files(path, in_dir("whole.h5"));
        unlink(path);
        must(file_remove_tree(in_dir("killed.h5.part"), &err), &err);
    }
}

/* kill -9 at random moments, in a process of its own, until it ends by itself. */
static void test_kill(void **state) {
    (void)state;
    struct fake_run run = everything;
    int kills = 0, ended = 0;
    run.segment_sequences = 1;
    uint64_t start = clock_us();
    record(in_dir("calm.h5"), &run);
    uint64_t whole = clock_us() - start; /* whatever this machine does beside us */
    run.resume = true;
    for (uint64_t i = 0; i < 100 && !ended; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            _exit(fake_record(in_dir("wild.h5"), &run, NULL) == OK ? 0 : 1);
        int status;
        usleep((useconds_t)(i * 2654435761u % 1000 * whole * (30 + 4 * i) / 100000));
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        ended = WIFEXITED(status);
        kills += !ended;
        assert_true(!ended || WEXITSTATUS(status) == 0);
    }
    print_message("%d kills\n", kills);
    if (!ended)
        record(in_dir("wild.h5"), &run);
    assert_equal_files(in_dir("wild.h5"), in_dir("calm.h5"));
    assert_false(file_exists(in_dir("wild.h5.part")));
}

static void test_shards(void **state) {
    (void)state;
    struct err err = {0};
    struct fake_run run = everything;
    const char *paths[4] = {in_dir("s0.h5"), in_dir("s1.h5"), in_dir("s2.h5"), in_dir("s3.h5")};
    record(in_dir("one.h5"), &run);
    run.n_shards = 4;
    for (run.shard = 0; run.shard < 4; run.shard++) {
        record(paths[run.shard], &run);
        assert_sound(paths[run.shard]);
    }
    const char *shuffled[4] = {paths[2], paths[0], paths[3], paths[1]};
    must(profile_merge(shuffled, 4, in_dir("merged.h5"), false, &err), &err);
    assert_equal_files(in_dir("merged.h5"), in_dir("one.h5"));
    assert_sound(in_dir("merged.h5"));
    struct profile *p = open_run(in_dir("merged.h5"));
    assert_int_equal(profile_meta(p)->n_shards, 1);
    assert_false(profile_is_partial(p));
    profile_close(p);
    expect_error(profile_merge(paths, 4, in_dir("merged.h5"), false, &err), &err, ERR_EXISTS, WORDS("--force"));
    err = (struct err){0};
    /* The last shard is the only one that holds the last sequences: only the recorded total can tell. */
    expect_error(profile_merge(paths, 3, in_dir("less.h5"), false, &err), &err, ERR_INPUT, WORDS("missing", "3/4"));
    err = (struct err){0};
    const char *twice[4] = {paths[0], paths[1], paths[2], paths[0]};
    expect_error(profile_merge(twice, 4, in_dir("less.h5"), false, &err), &err, ERR_INPUT, WORDS("as well"));
    err = (struct err){0};
    run.shard = 3;
    run.seed = 1;
    run.force = true;
    record(paths[3], &run);
    expect_error(profile_merge(paths, 4, in_dir("less.h5"), false, &err), &err, ERR_INPUT, WORDS("seed", "s3.h5"));
    assert_false(file_exists(in_dir("less.h5")));
}

/* More shards than batches: some stay empty. */
static void test_empty_shard(void **state) {
    (void)state;
    struct err err = {0};
    struct fake_run run = everything;
    const char *paths[3] = {in_dir("e0.h5"), in_dir("e1.h5"), in_dir("e2.h5")};
    run.n_sequences = 4;
    record(in_dir("four.h5"), &run);
    run.n_shards = 3;
    for (run.shard = 0; run.shard < 3; run.shard++)
        record(paths[run.shard], &run);
    assert_sound(paths[2]);
    must(profile_merge(paths, 3, in_dir("joined.h5"), false, &err), &err);
    assert_equal_files(in_dir("joined.h5"), in_dir("four.h5"));
}

static void test_recover(void **state) {
    (void)state;
    struct err err = {0};
    struct fake_run run = everything;
    run.segment_sequences = 1;
    run.stop_after = 6;
    record(in_dir("cut.h5"), &run);
    assert_int_equal(truncate(in_dir("cut.h5.part/000002.h5"), 5000), 0);
    size_t problems;
    must(profile_check(in_dir("cut.h5.part"), print_problem, NULL, &problems, &err), &err);
    assert_true(problems > 0);
    must(profile_recover(in_dir("cut.h5.part"), in_dir("partial.h5"), false, print_problem, NULL, &err), &err);
    struct profile *p = open_run(in_dir("partial.h5"));
    assert_true(profile_is_partial(p));
    assert_int_equal(profile_n_sequences(p), 15);
    uint64_t index[15];
    must(profile_read_rows(p, PROFILE_SEQUENCE_INDEX, 0, 15, index, &err), &err);
    assert_int_equal(index[6], 9);
    profile_close(p);
    assert_sound(in_dir("partial.h5"));
    const char *only = in_dir("partial.h5");
    expect_error(profile_merge(&only, 1, in_dir("x.h5"), false, &err), &err, ERR_INPUT, WORDS("finished"));
}

static void copy_file(const char *from, const char *to) {
    struct err err = {0};
    char *data;
    size_t n;
    must(file_read_all(from, 1 << 26, &data, &n, &err), &err);
    must(file_write_all(to, data, n, &err), &err);
    free(data);
}

/* Copies the sound file and opens the copy for a change. */
static hid_t spoil(const char *to) {
    copy_file(in_dir("sound.h5"), to);
    return H5Fopen(to, H5F_ACC_RDWR, H5P_DEFAULT);
}

static void expect_refused(const char *path, const char *const *words) {
    struct err err = {0};
    struct profile *p = NULL;
    int rc = profile_open(path, &p, &err);
    expect_error(rc, &err, ERR_INPUT, words);
    assert_null(p);
    size_t problems = 0;
    err = (struct err){0};
    must(profile_check(path, print_problem, NULL, &problems, &err), &err);
    assert_true(problems > 0);
}

static void set_number(hid_t file, const char *name, uint64_t value) {
    hid_t attribute = H5Aopen(file, name, H5P_DEFAULT);
    assert_true(attribute >= 0 && H5Awrite(attribute, H5T_NATIVE_UINT64, &value) >= 0);
    H5Aclose(attribute);
}

static void set_text(hid_t file, const char *name, const char *value) {
    hid_t attribute = H5Aopen(file, name, H5P_DEFAULT), type = H5Aget_type(attribute);
    assert_true(attribute >= 0 && H5Awrite(attribute, type, &value) >= 0);
    H5Tclose(type);
    H5Aclose(attribute);
}

/* Replaces a dataset by one of another shape, never written. */
static void replace_dataset(hid_t file, const char *name, hid_t type, int rank, const hsize_t *dims, bool chunked) {
    hid_t space = H5Screate_simple(rank, dims, NULL), plist = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t chunk[4] = {1, 1, 1, 1};
    if (chunked)
        H5Pset_chunk(plist, rank, chunk);
    H5Ldelete(file, name, H5P_DEFAULT);
    hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    assert_true(dataset >= 0);
    H5Dclose(dataset);
    H5Pclose(plist);
    H5Sclose(space);
}

/* Files of schema 1.0 do not know which tokens were the most likely. */
static void test_first_schema(void **state) {
    (void)state;
    struct err err = {0};
    uint32_t n;
    struct fake_run run = everything;
    const char *old = in_dir("bad.h5");
    run.force = true;
    record(in_dir("sound.h5"), &run);
    hid_t f = spoil(old);
    set_text(f, "spkv_schema_version", "1.0");
    H5Ldelete(f, "n_argmax", H5P_DEFAULT);
    H5Ldelete(f, "tokens/is_argmax", H5P_DEFAULT);
    H5Fclose(f);
    assert_sound(old);
    struct profile *p = open_run(old);
    assert_false(profile_has(p, PROFILE_N_ARGMAX) || profile_has(p, PROFILE_TOKEN_IS_ARGMAX));
    assert_int_equal(profile_read_rows(p, PROFILE_N_ARGMAX, 0, 1, &n, &err), ERR_INPUT);
    profile_close(p);
    assert_int_equal(profile_merge(&old, 1, in_dir("flat.h5"), true, &err), OK);
    assert_sound(in_dir("flat.h5"));
    p = open_run(in_dir("flat.h5"));
    assert_false(profile_has(p, PROFILE_N_ARGMAX));
    profile_close(p);
    f = spoil(old);
    H5Ldelete(f, "n_argmax", H5P_DEFAULT);
    H5Fclose(f);
    expect_refused(old, WORDS("n_argmax", "missing"));
}

static void test_hostile(void **state) {
    (void)state;
    const char *bad = in_dir("bad.h5");
    struct fake_run run = everything;
    run.force = true;
    record(in_dir("sound.h5"), &run);
    hid_t f = spoil(bad);
    set_text(f, "spkv_schema_version", "2.0");
    H5Fclose(f);
    expect_refused(bad, WORDS("bad.h5", "2.0", "newer"));
    f = spoil(bad);
    set_text(f, "spkv_schema_version", "1.7"); /* minor: fine */
    H5Fclose(f);
    assert_sound(bad);
    f = spoil(bad);
    H5Ldelete(f, "n_kept", H5P_DEFAULT);
    H5Fclose(f);
    expect_refused(bad, WORDS("bad.h5", "n_kept", "missing"));
    f = spoil(bad);
    replace_dataset(f, "n_open", H5T_STD_U32LE, 3, (hsize_t[]){29, 3, 3}, false);
    H5Fclose(f);
    expect_refused(bad, WORDS("n_open", "29 x 3 x 3", "29 x 3 x 2"));
    f = spoil(bad);
    replace_dataset(f, "n_open", H5T_IEEE_F32LE, 3, (hsize_t[]){29, 3, 2}, false);
    H5Fclose(f);
    expect_refused(bad, WORDS("n_open", "type"));
    f = spoil(bad); /* a bomb: 2^40 sequences, nothing stored */
    replace_dataset(f, "sequence_index", H5T_STD_U64LE, 1, (hsize_t[]){(hsize_t)1 << 40}, true);
    H5Fclose(f);
    expect_refused(bad, WORDS("sequence_index", "claims"));
    f = spoil(bad);
    set_number(f, "n_layers", 4000000);
    H5Fclose(f);
    expect_refused(bad, WORDS("n_layers"));
    f = spoil(bad);
    set_number(f, "n_kv_heads", 500);
    H5Fclose(f);
    expect_refused(bad, WORDS("head_window"));
    f = spoil(bad);
    set_number(f, "max_length", 0);
    H5Fclose(f);
    expect_refused(bad, WORDS("max_length"));
    f = spoil(bad);
    H5Adelete(f, "window");
    H5Fclose(f);
    expect_refused(bad, WORDS("window", "missing"));
    f = spoil(bad);
    H5Ldelete(f, "n_kept", H5P_DEFAULT);
    H5Lcreate_external("/etc/passwd", "/x", f, "n_kept", H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(f);
    expect_refused(bad, WORDS("n_kept"));
    f = spoil(bad);
    H5Ldelete(f, "provenance", H5P_DEFAULT);
    H5Fclose(f);
    expect_refused(bad, WORDS("provenance"));
}

/* Wrong numbers in a well-formed file are found by check. */
static void test_check_finds(void **state) {
    (void)state;
    struct err err = {0};
    static const struct {
        const char *name;
        uint32_t value;
    } changes[] = {{"n_open", 4000}, {"n_kept", 71}, {"n_scored", 1}, {"sequence_source", 3}, {"sequence_length", 1},
                 {"n_argmax", 5000}};
    record(in_dir("sound.h5"), &(struct fake_run){.n_sequences = 5, .score = PROFILE_SCORE_SIGMOID, .gates = true,
                                                  .record = PROFILE_RECORD_TOKENS, .force = true});
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        size_t problems = 0;
        hid_t f = spoil(in_dir("wrong.h5")), dataset = H5Dopen2(f, changes[i].name, H5P_DEFAULT);
        hid_t space = H5Dget_space(dataset), memory = H5Screate(H5S_SCALAR);
        hsize_t start[3] = {2, 0, 1}, one[3] = {1, 1, 1};
        H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, one, NULL);
        assert_true(H5Dwrite(dataset, H5T_NATIVE_UINT32, memory, space, H5P_DEFAULT, &changes[i].value) >= 0);
        H5Sclose(memory);
        H5Sclose(space);
        H5Dclose(dataset);
        H5Fclose(f);
        must(profile_check(in_dir("wrong.h5"), print_problem, NULL, &problems, &err), &err);
        assert_true(problems > 0);
    }
}

static void discard(void *self, const char *text) {
    (void)self, (void)text;
}

/* Changed bytes: never a crash, and what is refused is refused cleanly. Each attempt runs in a process of its own. */
static void test_bit_rot(void **state) {
    (void)state;
    char *data;
    size_t n;
    struct err err = {0};
    int found = 0, tried = 0;
    record(in_dir("sound.h5"), &(struct fake_run){.n_sequences = 5, .score = PROFILE_SCORE_SIGMOID, .gates = true,
                                                  .record = PROFILE_RECORD_TOKENS | PROFILE_RECORD_UTILITY, .force = true});
    must(file_read_all(in_dir("sound.h5"), 1 << 26, &data, &n, &err), &err);
    for (uint32_t i = 0; i < 60; i++, tried++) {
        size_t at = (size_t)i * 2654435761u % n;
        data[at] ^= 0x55;
        must(file_write_all(in_dir("rot.h5"), data, n, &err), &err);
        data[at] ^= 0x55;
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            size_t problems = 0;
            alarm(20);
            int rc = profile_check(in_dir("rot.h5"), discard, NULL, &problems, NULL);
            _exit(rc != OK || problems > 0);
        }
        int status;
        waitpid(child, &status, 0);
        if (!WIFEXITED(status) || WEXITSTATUS(status) > 1)
            fail_msg("byte %zu changed: status %x", at, status);
        found += WEXITSTATUS(status);
    }
    free(data);
    print_message("%d of %d single changed bytes found (the others lie in unused space and descriptive attributes)\n", found,
                  tried);
    assert_true(found > 0);
}

static void test_not_a_run(void **state) {
    (void)state;
    struct err err = {0};
    struct profile *p;
    must(file_write_all(in_dir("text.h5"), "hello", 5, &err), &err);
    expect_error(profile_open(in_dir("text.h5"), &p, &err), &err, ERR_INPUT, WORDS("text.h5", "HDF5"));
    err = (struct err){0};
    expect_error(profile_open(in_dir("absent.h5"), &p, &err), &err, ERR_IO, WORDS("absent.h5"));
    err = (struct err){0};
    must(file_make_dirs(in_dir("none.h5.part"), &err), &err);
    expect_error(profile_open(in_dir("none.h5.part"), &p, &err), &err, ERR_INPUT, WORDS("no closed segment"));
    hid_t f = H5Fcreate(in_dir("foreign.h5"), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(f);
    err = (struct err){0};
    expect_error(profile_open(in_dir("foreign.h5"), &p, &err), &err, ERR_INPUT, WORDS("not a run file"));
}

static void test_bad_reports(void **state) {
    (void)state;
    struct err err = {0};
    struct profile_meta meta;
    struct profile_writer *w, *second;
    struct fake_run run = {.score = PROFILE_SCORE_SIGMOID, .gates = true};
    float utility[FAKE_LH] = {0.5f, 0.5f, NAN, 0.5f, 0.5f, NAN};
    uint8_t open[FAKE_LH] = {0};
    int32_t tokens[2] = {1, 2};
    struct profile_sequence sequence = {.tokens = tokens, .n_tok = 2};
    fake_meta(&run, &meta);
    must(profile_writer_create(in_dir("nan.h5"), &meta, &(struct profile_writer_options){0}, &w, &err), &err);
    struct profile_writer_options resume = {.resume = true};
    expect_error(profile_writer_create(in_dir("nan.h5"), &meta, &resume, &second, &err), &err, ERR_EXISTS,
                 WORDS("another process"));
    err = (struct err){0};
    struct profile_gates gates = {.sequence = &sequence, .n = 1, .utility = utility, .open = open, .layer_stride = 2};
    expect_error(profile_writer_add_gates(w, &gates, &err), &err, ERR_INPUT, WORDS("layer 2", "head 1", "NaN"));
    err = (struct err){0};
    gates.first = 2;
    expect_error(profile_writer_add_gates(w, &gates, &err), &err, ERR_INPUT, WORDS("of a sequence of 2"));
    err = (struct err){0};
    expect_error(profile_writer_end_batch(w, 0, &err), &err, ERR_INPUT, WORDS("before"));
    profile_writer_free(w);
    meta.record = PROFILE_RECORD_OPEN;
    err = (struct err){0};
    expect_error(profile_writer_create(in_dir("m.h5"), &meta, &resume, &w, &err), &err, ERR_INPUT, WORDS("tokens"));
}

/* A file that may not grow stands for a full disk: one clear error, the process lives on and exits cleanly. */
static void test_full_disk(void **state) {
    (void)state;
    for (rlim_t limit = 1000; limit < 40000; limit += 13000) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            struct err err = {0};
            struct rlimit r = {limit, limit};
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &r);
            int rc = fake_record(in_dir("full.h5"), &everything, &err);
            exit(rc == ERR_IO && strstr(err.where, "full.h5") && err.message[0] ? 7 : 1);
        }
        int status;
        struct err err = {0};
        waitpid(child, &status, 0);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
        assert_false(file_exists(in_dir("full.h5")));
        must(file_remove_tree(in_dir("full.h5.part"), &err), &err);
    }
}

/* Many open sequences' worth of gates: 30 layers, 3 heads, 2048 tokens. The bound is loose; the measured time is printed. */
static void test_speed(void **state) {
    (void)state;
    enum { L = 30, K = 3, T = 2048 };
    struct err err = {0};
    struct profile_meta meta;
    struct fake_run run = {.score = PROFILE_SCORE_SIGMOID, .gates = true};
    fake_meta(&run, &meta);
    meta.n_layers = L;
    meta.n_kv_heads = K;
    meta.sliding_window = NULL;
    meta.max_length = T;
    float *utility = malloc(sizeof(float) * L * K * T);
    uint8_t *open = malloc(L * K * T);
    for (size_t i = 0; i < (size_t)L * K * T; i++) {
        utility[i] = fake_utility(&run, i, 0, 0, 0);
        open[i] = utility[i] >= 0.5f;
    }
    struct profile_writer *w;
    must(profile_writer_create(in_dir("speed.h5"), &meta, &(struct profile_writer_options){0}, &w, &err), &err);
    uint64_t best = UINT64_MAX;
    for (uint64_t i = 0; i < 9; i++) {
        struct profile_sequence sequence = {.index = i, .n_tok = T};
        struct profile_gates gates = {.sequence = &sequence, .n = T, .utility = utility, .open = open,
                                      .layer_stride = T * K};
        uint64_t start = clock_us();
        must(profile_writer_add_gates(w, &gates, &err), &err);
        uint64_t took = clock_us() - start;
        best = took < best ? took : best;
    }
    print_message("gates of 2048 tokens x 30 layers x 3 heads: %.2f ms\n", (double)best / 1000);
    profile_writer_free(w);
    free(open);
    free(utility);
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
        cmocka_unit_test(test_score_bins),   cmocka_unit_test(test_distance_edges),
        cmocka_unit_test(test_read_back),    cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_attention),    cmocka_unit_test(test_real_scores),
        cmocka_unit_test(test_chunks_do_not_matter), cmocka_unit_test(test_resume),
        cmocka_unit_test(test_kill),         cmocka_unit_test(test_shards),
        cmocka_unit_test(test_empty_shard),  cmocka_unit_test(test_recover),
        cmocka_unit_test(test_first_schema), cmocka_unit_test(test_hostile),      cmocka_unit_test(test_check_finds),
        cmocka_unit_test(test_bit_rot),      cmocka_unit_test(test_not_a_run),
        cmocka_unit_test(test_bad_reports),  cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_speed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
