#include "tests/fake_run.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "tests/must.h"

static const uint32_t sliding[FAKE_LAYERS] = {0, 16, 0};
static const char *const corpora[] = {"books", "code"};
static const struct profile_source sources[FAKE_SOURCES] = {
    {"a.txt", "00000000000000000000000000000001", 0},
    {"b.txt", "00000000000000000000000000000002", 0},
    {"c.jsonl", "", 1},
};
static uint32_t distance_edges[64];

/* Uniform in [0, 1). */
static float draw(uint64_t seed, size_t i, size_t layer, size_t head, size_t t) {
    return rng_uniform(seed, i, (uint32_t)layer, (uint32_t)head, (uint32_t)t);
}

size_t fake_length(size_t i) {
    return 2 + (i * 37 + 11) % (FAKE_MAX_LENGTH - 1);
}

uint32_t fake_source(size_t i) {
    return (uint32_t)(i % 7 == 6 ? 2 : i % 7 / 3);
}

uint32_t fake_corpus(size_t i) {
    return sources[fake_source(i)].corpus;
}

uint64_t fake_document(size_t i) {
    return i / 2 * 5;
}

int32_t fake_token(size_t i, size_t t) {
    return (int32_t)(1 + (i * 31 + t * 17) % 500);
}

float fake_nll(size_t i, size_t t) {
    return t == 0 || t % 13 == 5 ? NAN : 4 * draw(2, i, 0, 0, t);
}

bool fake_is_argmax(size_t i, size_t t) {
    return i % 3 == 0 || draw(6, i, 0, 0, t) < 0.4f;
}

uint8_t fake_class(size_t i, size_t t) {
    return (uint8_t)((i + t * t) % FAKE_N_CLASSES);
}

float fake_utility(const struct fake_run *run, size_t i, size_t layer, size_t head, size_t t) {
    float u = draw(1, i, layer, head, t);
    if (run->score == PROFILE_SCORE_REAL)
        return 40 * u - 24; /* -24 .. 16: some below the lowest bin */
    /* Many values at the very ends, as trained gates have. */
    return u < 0.1f ? 0 : u > 0.9f ? 1 : u < 0.3f ? u * 1e-5f : u > 0.7f ? 1 - (1 - u) * 1e-4f : u;
}

bool fake_open(const struct fake_run *run, size_t i, size_t layer, size_t head, size_t t) {
    return run->score == PROFILE_SCORE_NONE ? draw(3, i, layer, head, t) < 0.25f
                                            : fake_utility(run, i, layer, head, t) >= 0.5f;
}

double fake_far(size_t i, size_t layer, size_t head) {
    return draw(4, i, layer, head, 0) * 0.5 * (double)fake_length(i);
}

double fake_distance(size_t i, size_t layer, size_t head, size_t bin) {
    return (double)fake_length(i) * (bin == 0 ? 0.75 : bin == 1 ? draw(5, i, layer, head, 0) * 0.25 : 0) +
           (bin == 2 ? (double)fake_length(i) * (0.25 - draw(5, i, layer, head, 0) * 0.25) : 0);
}

void fake_meta(const struct fake_run *run, struct profile_meta *meta) {
    size_t n_edges = profile_distance_edges(FAKE_MAX_LENGTH, distance_edges, 64);
    *meta = (struct profile_meta){
        .n_layers = FAKE_LAYERS,
        .n_kv_heads = FAKE_HEADS,
        .n_heads = 4,
        .head_dim = 8,
        .vocab_size = 512,
        .element_bytes = 4,
        .sliding_window = sliding,
        .model_path = "models/fake",
        .model_type = "llama",
        .model_hash = "11111111111111111111111111111111",
        .base_model_hash = "22222222222222222222222222222222",
        .tokenizer_hash = "33333333333333333333333333333333",
        .policy = run->score == PROFILE_SCORE_NONE ? run->gates ? "random" : "full" : "spkv",
        .policy_parameters = "{\"window\": 8, \"threshold\": 0.5, \"note\": \"gr\xc3\xbc\xc3\x9f\"}",
        .window = FAKE_WINDOW,
        .sinks = FAKE_SINKS,
        .threshold = run->gates ? 0.5 : NAN,
        .score = run->score,
        .has_gates = run->gates,
        .prefill = "pruned",
        .chunk = 64,
        .batch = FAKE_BATCH,
        .max_length = FAKE_MAX_LENGTH,
        .record = run->record,
        .shard = run->shard,
        .n_shards = run->n_shards ? run->n_shards : 1,
        .seed = run->seed,
        .dtype = "f32",
        .backend = "ref",
        .n_corpora = 2,
        .corpus_names = corpora,
        .n_sources = FAKE_SOURCES,
        .sources = sources,
        .n_classes = run->record & PROFILE_RECORD_CLASSES ? FAKE_N_CLASSES : 0,
        .class_names = profile_class_names,
        .n_distance_edges = run->record & PROFILE_RECORD_ATTENTION ? n_edges : 0,
        .distance_edges = distance_edges,
        .program_version = "0.0",
        .git_commit = "none",
        .command_line = "spkv profile 'a b'",
        .host = "nowhere",
        .cpu = "none",
        .gpu = "",
        .threads = 1,
        .library_versions = "{}",
    };
}

/* Arrays of one sequence as the engine would hand them out. */
struct fake_sequence {
    struct profile_sequence sequence;
    int32_t tokens[FAKE_MAX_LENGTH];
    uint8_t classes[FAKE_MAX_LENGTH];
    float nll[FAKE_MAX_LENGTH];
    uint8_t is_argmax[FAKE_MAX_LENGTH];
    float utility[FAKE_LAYERS * FAKE_MAX_LENGTH * FAKE_HEADS];
    uint8_t open[FAKE_LAYERS * FAKE_MAX_LENGTH * FAKE_HEADS];
    uint32_t left[FAKE_LH], kept[FAKE_LH];
    uint64_t visible[FAKE_LH];
    double far[FAKE_LH], sink[FAKE_LH], distance[FAKE_LH * 64];
};

static void invent(struct fake_sequence *f, const struct fake_run *run, size_t i) {
    size_t n = fake_length(i), edge = FAKE_WINDOW + FAKE_SINKS;
    memset(f, 0, sizeof *f);
    f->sequence = (struct profile_sequence){.index = i, .document = fake_document(i), .offset = i % 2 * 70,
                                            .source = fake_source(i), .corpus = fake_corpus(i), .tokens = f->tokens,
                                            .classes = f->classes, .n_tok = n};
    for (size_t t = 0; t < n; t++) {
        f->tokens[t] = fake_token(i, t);
        f->classes[t] = fake_class(i, t);
        f->nll[t] = fake_nll(i, t);
        f->is_argmax[t] = fake_is_argmax(i, t);
    }
    for (size_t h = 0; h < FAKE_LH; h++) {
        if (h / FAKE_HEADS == FAKE_SLIDING)
            continue;
        f->left[h] = (uint32_t)(n > edge ? n - edge : 0);
        for (size_t t = FAKE_SINKS; t + FAKE_WINDOW < n; t++)
            f->kept[h] += run->gates ? fake_open(run, i, h / FAKE_HEADS, h % FAKE_HEADS, t) : 1;
        f->visible[h] = n + i % 3;
        f->far[h] = fake_far(i, h / FAKE_HEADS, h % FAKE_HEADS);
        f->sink[h] = 0.25 * (double)n;
        for (size_t b = 0; b < 3; b++)
            f->distance[h * (profile_distance_edges(FAKE_MAX_LENGTH, distance_edges, 64) - 1) + b] =
                fake_distance(i, h / FAKE_HEADS, h % FAKE_HEADS, b);
    }
}

/* Gates of tokens first .. first + n - 1, with a stride of their own between layers. */
static int report_gates(struct profile_writer *w, struct fake_sequence *f, const struct fake_run *run, size_t first,
                        size_t n, struct err *err) {
    size_t stride = n * FAKE_HEADS;
    for (size_t layer = 0; layer < FAKE_LAYERS; layer++)
        for (size_t t = 0; t < n; t++)
            for (size_t k = 0; k < FAKE_HEADS; k++) {
                f->utility[layer * stride + t * FAKE_HEADS + k] = fake_utility(run, f->sequence.index, layer, k, first + t);
                f->open[layer * stride + t * FAKE_HEADS + k] = fake_open(run, f->sequence.index, layer, k, first + t);
            }
    struct profile_gates gates = {.sequence = &f->sequence, .first = first, .n = n, .layer_stride = stride,
                                  .utility = run->score == PROFILE_SCORE_NONE ? NULL : f->utility,
                                  .open = run->gates ? f->open : NULL};
    return profile_writer_add_gates(w, &gates, err);
}

static int record_sequence(struct profile_writer *w, const struct fake_run *run, size_t i, struct err *err) {
    int rc = OK;
    size_t predicted = 0, argmax = 0;
    double nll = 0;
    static struct fake_sequence one;
    struct fake_sequence *f = &one;
    invent(f, run, i);
    size_t n_tok = f->sequence.n_tok, chunk = run->chunk ? run->chunk : n_tok;
    for (size_t t = 0; rc == OK && run->gates && t < n_tok; t += chunk)
        rc = report_gates(w, f, run, t, n_tok - t < chunk ? n_tok - t : chunk, err);
    for (size_t t = 0; t < n_tok; t++)
        if (!isnan(f->nll[t])) {
            nll += f->nll[t];
            predicted++;
            argmax += f->is_argmax[t];
        }
    bool attention = run->record & PROFILE_RECORD_ATTENTION;
    struct profile_counters counters = {
        .sequence = &f->sequence, .n_predicted = predicted, .nll_sum = nll, .nll = f->nll, .n_argmax = argmax,
        .is_argmax = f->is_argmax, .n_left_window = f->left,
        .n_kept = f->kept, .visible_pairs = f->visible, .cache_bytes_used = 100 + i, .cache_bytes_allocated = 4096,
        .cache_bytes_full = 5000 + i, .pool_peak_bytes = 1 << 16, .far_sum = attention ? f->far : NULL,
        .sink_sum = attention ? f->sink : NULL, .distance_sum = attention ? f->distance : NULL};
    if (rc == OK)
        rc = profile_writer_add_sequence(w, &counters, err);
    return rc;
}

/* Sequences of a batch in an order of their own. */
static int record_batch(struct profile_writer *w, const struct fake_run *run, size_t batch, struct err *err) {
    int rc = OK;
    size_t first = batch * FAKE_BATCH, end = first + FAKE_BATCH < run->n_sequences ? first + FAKE_BATCH : run->n_sequences;
    for (size_t i = end; rc == OK && i-- > first;)
        rc = record_sequence(w, run, i, err);
    return rc == OK ? profile_writer_end_batch(w, batch, err) : rc;
}

int fake_record(const char *path, const struct fake_run *run, struct err *err) {
    struct profile_meta meta;
    struct profile_writer *w;
    struct profile_writer_options options = {.force = run->force, .resume = run->resume, .segment_seconds = 1e6,
                                             .segment_sequences = run->segment_sequences};
    size_t done = 0, n_shards = run->n_shards ? run->n_shards : 1;
    fake_meta(run, &meta);
    int rc = profile_writer_create(path, &meta, &options, &w, err);
    if (rc != OK || !w)
        return rc;
    for (size_t batch = 0; rc == OK && batch * FAKE_BATCH < run->n_sequences; batch++) {
        if (batch % n_shards != run->shard || profile_writer_has_batch(w, batch))
            continue;
        if (run->stop_after && done++ == run->stop_after) {
            /* Part of a batch is under way when the process stops. */
            rc = record_sequence(w, run, batch * FAKE_BATCH, err);
            if (rc == OK && !run->abandon)
                rc = profile_writer_flush(w, err);
            profile_writer_free(w);
            return rc;
        }
        rc = record_batch(w, run, batch, err);
    }
    struct profile_end end = {.n_sequences_total = run->n_sequences, .n_dropped_tails = 4};
    if (rc == OK)
        rc = profile_writer_finish(w, &end, err);
    profile_writer_free(w);
    return rc;
}

struct profile *fake_profile(const char *path, const struct fake_run *run) {
    struct err err = {0};
    struct profile *p = NULL;
    must(fake_record(path, run, &err), &err);
    must(profile_open(path, &p, &err), &err);
    return p;
}
