/* Head patterns of other tools: what spkv writes is read by the rules of those who read it, what they write comes back as
 * it is, and nothing hostile gets through. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "analyze/head_pattern.h"
#include "analyze/interchange.h"
#include "analyze/layer_types.h"
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "tests/must.h"
#include "tests/scratch.h"

enum { L = 5, K = 4, N = L * K, WINDOW = 96, SINKS = 4, CONTEXT = 1000 };

static struct scratch scratch;

/* The error has this code, and its place and text together hold these words. */
static void expect_error(int rc, const struct err *err, int code, const char *words) {
    char text[2200];
    snprintf(text, sizeof text, "%s: %s", err->where, err->message);
    if (rc != code || !strstr(text, words))
        fail_msg("code %d, \"%s\"; expected %d and \"%s\"", rc, text, code, words);
}

/* Global heads (0, 1), (1, *), (3, 0), (3, 2), (3, 3). */
static struct layout *some_layout(void) {
    static const size_t global[] = {1, 4, 5, 6, 7, 12, 14, 15};
    struct layout *layout;
    struct err err = {0};
    must(layout_create(L, K, NULL, WINDOW, SINKS, &layout, &err), &err);
    for (size_t i = 0; i < sizeof global / sizeof *global; i++)
        layout->heads[global[i]] = HEAD_GLOBAL;
    return layout;
}

static char *read_text(const char *path) {
    char *text;
    size_t n;
    struct err err = {0};
    must(file_read_all(path, 1 << 20, &text, &n, &err), &err);
    return text;
}

/* -- DuoAttention and kvpress's press for its files --------------------------------------------------------------------- */

/* numpy.loadtxt(delimiter="\t"), then clip to 0..1. */
static void duo_load(const char *path, double *out, size_t rows, size_t columns) {
    char *text = read_text(path), *line_state = NULL;
    size_t row = 0;
    for (char *line = strtok_r(text, "\n", &line_state); line; line = strtok_r(NULL, "\n", &line_state), row++) {
        size_t column = 0;
        for (char *cell = line; cell; column++) {
            char *tab = strchr(cell, '\t'), *stop;
            if (tab)
                *tab = 0;
            assert_true(row < rows && column < columns);
            double x = strtod(cell, &stop);
            assert_true(stop != cell && *stop == 0);
            out[row * columns + column] = fmin(fmax(x, 0), 1);
            cell = tab ? tab + 1 : NULL;
        }
        assert_int_equal(column, columns);
    }
    assert_int_equal(row, rows);
    free(text);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* duo_attn/utils.py: uniform noise up to 1e-6 breaks ties, heads at or above the quantile stay full. */
static void duo_sparsify(double *x, size_t n, double sparsity, uint64_t seed) {
    double sorted[N], at = sparsity * (double)(n - 1);
    for (size_t i = 0; i < n; i++)
        sorted[i] = x[i] += 1e-6 * (double)rng_uniform(seed, 0, 0, 0, (uint32_t)i);
    qsort(sorted, n, sizeof *sorted, ascending);
    size_t low = (size_t)at, high = low + 1 < n ? low + 1 : low;
    double threshold = sorted[low] + (at - (double)low) * (sorted[high] - sorted[low]);
    threshold = sparsity >= 1 ? 2 : sparsity <= 0 ? -1 : threshold;
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] >= threshold;
}

/* kvpress, DuoAttentionPress: the round(n * ratio) smallest heads stream. */
static void kvpress_stream(const double *x, size_t n, double ratio, bool *streams) {
    size_t n_pruned = (size_t)nearbyint((double)n * ratio);
    memset(streams, 0, n * sizeof *streams);
    for (size_t k = 0; k < n_pruned; k++) {
        size_t best = n;
        for (size_t i = 0; i < n; i++)
            if (!streams[i] && (best == n || x[i] < x[best]))
                best = i;
        streams[best] = true;
    }
}

static void test_duo_attention(void **state) {
    struct layout *layout = some_layout();
    struct err err = {0};
    double *gates, read[N], full[N], local = N - 8;
    bool streams[N];
    (void)state;
    char *dir = scratch_path(&scratch, "duo");
    must(interchange_gates(layout, &gates, &err), &err);
    must(interchange_write_duo_attention(gates, L, K, SINKS, WINDOW, dir, false, &err), &err);
    duo_load(scratch_path(&scratch, "duo/full_attention_heads.tsv"), read, L, K);
    for (uint64_t seed = 0; seed < 20; seed++) {
        memcpy(full, read, sizeof full);
        duo_sparsify(full, N, local / N, seed);
        for (size_t i = 0; i < N; i++)
            assert_true((full[i] == 1) == (layout->heads[i] == HEAD_GLOBAL));
    }
    kvpress_stream(read, N, local / N, streams);
    for (size_t i = 0; i < N; i++)
        assert_true(streams[i] == (layout->heads[i] == HEAD_LOCAL));
    json_t *config;
    int64_t sinks = -1, recent = -1;
    const char *path = scratch_path(&scratch, "duo/config.json");
    must(json_read_object(path, 1 << 20, &config, &err), &err);
    must(json_get_int(config, "sink_size", 0, 1000, &sinks, path, &err), &err);
    must(json_get_int(config, "recent_size", 0, 1000, &recent, path, &err), &err);
    assert_true(sinks == SINKS && recent == WINDOW);
    json_decref(config);
    expect_error(interchange_write_duo_attention(gates, L, K, SINKS, WINDOW, dir, false, &err), &err, ERR_EXISTS, "--force");
    free(gates);
    layout_free(layout);
}

static void test_duo_attention_comes_back(void **state) {
    struct layout *layout = some_layout(), *back;
    struct head_pattern p;
    struct err err = {0};
    (void)state;
    must(head_pattern_read(scratch_path(&scratch, "duo"), HEAD_PATTERN_N_FORMATS, 0, &p, &err), &err);
    assert_int_equal(p.format, HEAD_PATTERN_DUO_ATTENTION);
    assert_true(p.n_layers == L && p.n_kv_heads == K && p.window == WINDOW && p.sinks == SINKS && p.n_clipped == 0);
    assert_int_equal(head_pattern_count(&p, 0.5, NULL), 8);
    must(head_pattern_layout(&p, 8, p.window, p.sinks, NULL, &back, &err), &err);
    assert_memory_equal(back->heads, layout->heads, N);
    assert_null(json_object_get(back->made_by, "ties"));
    assert_string_equal(layout_strategy(back), "imported");
    layout_free(back);
    head_pattern_free(&p);
    layout_free(layout);
}

/* -- kvpress ------------------------------------------------------------------------------------------------------------ */

static void test_kvpress(void **state) {
    struct layout *layout = some_layout();
    struct err err = {0};
    double *kept;
    json_error_t problem;
    char *path = scratch_path(&scratch, "ratios.json");
    (void)state;
    must(interchange_retained(layout, CONTEXT, &kept, &err), &err);
    must(interchange_write_kvpress(kept, L, K, path, &err), &err);
    char *text = read_text(path);
    json_t *list = json_loads(text, 0, &problem);
    assert_int_equal(json_array_size(list), L);
    for (size_t layer = 0; layer < L; layer++) {
        /* A score press keeps int(k_len * (1 - ratio)) of the pairs; its ratio must lie in [0, 1). */
        double ratio = json_number_value(json_array_get(list, layer)), pairs = 0;
        for (size_t head = 0; head < K; head++)
            pairs += (layout_head(layout, layer, head) == HEAD_GLOBAL ? CONTEXT : WINDOW + SINKS) / (double)K;
        assert_true(ratio >= 0 && ratio < 1);
        assert_int_equal((int)(CONTEXT * (1 - ratio)), (int)pairs);
        assert_true(layer != 1 || ratio == 0);
    }
    json_decref(list);
    free(text);
    struct head_pattern p;
    must(head_pattern_read(path, HEAD_PATTERN_N_FORMATS, K, &p, &err), &err);
    assert_int_equal(p.format, HEAD_PATTERN_KVPRESS);
    for (size_t layer = 0; layer < L; layer++) {
        double mean = 0;
        for (size_t head = 0; head < K; head++)
            mean += kept[layer * K + head] / K;
        assert_true(p.value[layer * K + K - 1] >= mean && p.value[layer * K] <= mean + 1.001e-6);
    }
    head_pattern_free(&p);
    expect_error(head_pattern_read(path, HEAD_PATTERN_N_FORMATS, 0, &p, &err), &err, ERR_INPUT, "--kv-heads");
    free(kept);
    layout_free(layout);
}

/* -- WG-KV -------------------------------------------------------------------------------------------------------------- */

static void test_wg_kv(void **state) {
    static const double value[6] = {0.43159, 1, 0.00004, 0.5, 0.25, 0.75};
    struct err err = {0};
    struct head_pattern p;
    (void)state;
    for (int log = 0; log < 2; log++) {
        char *path = scratch_path(&scratch, log ? "lengths.csv" : "0.5_retain_ratio.tsv");
        must(interchange_write_wg_kv(value, 3, 2, log, path, &err), &err);
        char *text = read_text(path);
        assert_string_equal(text, log ? "0.431590,1.000000\n0.000040,0.500000\n0.250000,0.750000\n"
                                      : "0.4316\t1.0000\n0.0000\t0.5000\n0.2500\t0.7500\n");
        free(text);
        must(head_pattern_read(path, HEAD_PATTERN_N_FORMATS, 0, &p, &err), &err);
        assert_int_equal(p.format, log ? HEAD_PATTERN_WG_KV_LOG : HEAD_PATTERN_WG_KV);
        for (size_t i = 0; i < 6; i++)
            assert_true(fabs(p.value[i] - value[i]) <= (log ? 5e-7 : 5e-5));
        head_pattern_free(&p);
    }
}

/* -- layer_types -------------------------------------------------------------------------------------------------------- */

static void test_rounding(void **state) {
    struct layout *heads = some_layout(), *layers;
    struct layer_rounding r;
    struct err err = {0};
    double value[N];
    (void)state;
    for (size_t i = 0; i < N; i++)
        value[i] = (double)(i + 1);
    must(layer_types_round(heads, value, &layers, &r, &err), &err);
    for (size_t i = 0; i < N; i++)
        assert_int_equal(layers->heads[i], i / K == 1 || i / K == 3 ? HEAD_GLOBAL : HEAD_LOCAL);
    assert_true(r.n_full == 2 && r.n_lost == 1 && r.n_gained == 1);
    assert_true(fabs(r.coverage_heads - (2 + 5 + 6 + 7 + 8 + 13 + 15 + 16) / 210.0) < 1e-12);
    assert_true(fabs(r.coverage_layers - (5 + 6 + 7 + 8 + 13 + 14 + 15 + 16) / 210.0) < 1e-12);
    layout_free(layers);
    for (size_t i = 0; i < N; i++) /* one head in each layer: a layer less than one is one, the largest sum decides */
        heads->heads[i] = i % K == 0 && i / K < 3 ? HEAD_GLOBAL : HEAD_LOCAL;
    must(layer_types_round(heads, value, &layers, &r, &err), &err);
    assert_true(r.n_full == 1 && layout_head(layers, 2, 0) == HEAD_GLOBAL && r.n_lost == 2 && r.n_gained == 3);
    layout_free(layers);
    must(layer_types_round(heads, NULL, &layers, &r, &err), &err);
    assert_true(r.n_full == 1 && layout_head(layers, 0, 3) == HEAD_GLOBAL && isnan(r.coverage_layers));
    layout_free(layers);
    layout_free(heads);
}

static void collect(void *self, const char *text) {
    strncat(self, text, 900 - strlen(self));
}

/* Patches a configuration (its text with ' for ") with some_layout() rounded; the notes come back in `notes`. */
static json_t *patch(const char *config_text, const struct layout *layers, char notes[1000], struct err *err) {
    json_error_t problem;
    char text[512];
    snprintf(text, sizeof text, "%s", config_text);
    for (char *p = text; *p; p++)
        *p = *p == '\'' ? '"' : *p;
    json_t *config = json_loads(text, 0, &problem);
    assert_non_null(config);
    notes[0] = 0;
    if (layer_types_patch(layers, config, "config.json", collect, notes, err) == OK)
        return config;
    json_decref(config);
    return NULL;
}

static struct layout *some_layers(void) {
    struct layout *heads = some_layout(), *layers;
    struct layer_rounding r;
    struct err err = {0};
    must(layer_types_round(heads, NULL, &layers, &r, &err), &err);
    layout_free(heads);
    return layers;
}

static const char *string_of(const json_t *config, const char *key) {
    return json_string_value(json_object_get(config, key));
}

static void test_config(void **state) {
    struct layout *layers = some_layers();
    struct err err = {0};
    char notes[1000];
    (void)state;
    json_t *c = patch("{'model_type': 'llama', 'num_hidden_layers': 5, 'num_attention_heads': 8, 'num_key_value_heads': 4}",
                      layers, notes, &err);
    must(err.code, &err);
    json_t *types = json_object_get(c, "layer_types");
    assert_int_equal(json_array_size(types), L);
    for (size_t layer = 0; layer < L; layer++)
        assert_string_equal(json_string_value(json_array_get(types, layer)),
                            layer == 1 || layer == 3 ? "full_attention" : "sliding_attention");
    assert_int_equal(json_integer_value(json_object_get(c, "sliding_window")), WINDOW);
    assert_string_equal(string_of(c, "model_type"), "mistral");
    assert_int_equal(json_integer_value(json_object_get(c, "intermediate_size")), 11008); /* as transformers' llama */
    assert_int_equal(json_integer_value(json_object_get(c, "max_position_embeddings")), 2048);
    assert_true(strstr(notes, "mistral") && strstr(notes, "4 sinks are lost"));
    char *text = json_dumps(c, 0);
    struct head_pattern p;
    must(head_pattern_parse(text, strlen(text), "config.json", HEAD_PATTERN_N_FORMATS, 0, &p, &err), &err);
    assert_true(p.format == HEAD_PATTERN_LAYER_TYPES && p.n_layers == L && p.n_kv_heads == K && p.window == WINDOW);
    for (size_t i = 0; i < N; i++)
        assert_true(p.value[i] == (layers->heads[i] == HEAD_GLOBAL));
    head_pattern_free(&p);
    free(text);
    json_decref(c);
    c = patch("{'model_type': 'llama', 'attention_bias': true, 'head_dim': null, 'rope_theta': 500.0}", layers, notes, &err);
    must(err.code, &err);
    assert_string_equal(string_of(c, "model_type"), "smollm3");
    assert_int_equal(json_array_size(json_object_get(c, "no_rope_layers")), L); /* all rotate */
    assert_true(json_is_true(json_object_get(c, "use_sliding_window")) && !json_object_get(c, "head_dim"));
    assert_true(json_is_false(json_object_get(c, "tie_word_embeddings"))); /* true where a smollm3 does not say */
    assert_true(json_is_null(json_object_get(c, "pad_token_id")));
    assert_true(json_real_value(json_object_get(c, "rope_theta")) == 500);
    json_decref(c);
    c = patch("{'model_type': 'qwen3', 'num_hidden_layers': 5, 'num_attention_heads': 4, 'use_sliding_window': false}",
              layers, notes, &err);
    must(err.code, &err);
    assert_true(json_is_true(json_object_get(c, "use_sliding_window")));
    assert_string_equal(string_of(c, "model_type"), "qwen3");
    json_decref(c);
    c = patch("{'model_type': 'olmo2'}", layers, notes, &err);
    assert_true(c && strstr(notes, "olmo2"));
    json_decref(c);
    layout_free(layers);
}

static void test_config_refused(void **state) {
    struct layout *layers = some_layers();
    char notes[1000];
    static const char *const cases[][2] = {
        {"{'model_type': 'llama', 'num_hidden_layers': 6}", "6 layers"},
        {"{'model_type': 'llama', 'num_key_value_heads': 2}", "2 KV heads"},
        {"{'model_type': 'llama', 'attention_bias': 1}", "attention_bias"},
        {"{'model_type': 'gemma3_text'}", "RoPE"},
        {"{'model_type': 7}", "model_type"},
        {"{'num_hidden_layers': 'five'}", "num_hidden_layers"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = {0};
        assert_null(patch(cases[i][0], layers, notes, &err));
        expect_error(err.code, &err, ERR_INPUT, cases[i][1]);
    }
    struct err err = {0};
    memset(layers->heads, HEAD_SLIDING, K); /* layer 0 slides by itself, with another window */
    assert_null(patch("{'model_type': 'gemma2', 'sliding_window': 4096}", layers, notes, &err));
    expect_error(err.code, &err, ERR_INPUT, "--window 4096");
    layers->window = 4096;
    err = (struct err){0};
    json_t *c = patch("{'model_type': 'gemma2', 'sliding_window': 4096}", layers, notes, &err);
    must(err.code, &err);
    assert_int_equal(json_integer_value(json_object_get(c, "sliding_window")), 4096);
    json_decref(c);
    layout_free(layers);
}

/* -- reading -------------------------------------------------------------------------------------------------------------*/

static void test_clipping_and_ties(void **state) {
    static const char text[] = "\r\n 1.0\t-0.25 \t1\r\n0.5\t 1e0\t1.5\r\n\n";
    struct head_pattern p;
    struct layout *layout;
    struct err err = {0};
    (void)state;
    must(head_pattern_parse(text, sizeof text - 1, "x.tsv", HEAD_PATTERN_DUO_ATTENTION, 0, &p, &err), &err);
    assert_true(p.n_layers == 2 && p.n_kv_heads == 3 && p.n_clipped == 2);
    assert_true(p.value[1] == 0 && p.value[5] == 1);
    must(head_pattern_layout(&p, 2, 64, 0, NULL, &layout, &err), &err);
    assert_true(layout->heads[0] == HEAD_GLOBAL && layout->heads[2] == HEAD_GLOBAL && layout_n_global(layout) == 2);
    assert_non_null(strstr(json_string_value(json_object_get(layout->made_by, "ties")), "2 of 4 heads with the value 1"));
    layout_free(layout);
    static const bool sliding[2] = {true, false};
    must(head_pattern_layout(&p, 3, 64, 0, sliding, &layout, &err), &err);
    assert_true(layout_head(layout, 0, 0) == HEAD_SLIDING && layout_n_global(layout) == 3);
    layout_free(layout);
    expect_error(head_pattern_layout(&p, 4, 64, 0, sliding, &layout, &err), &err, ERR_INPUT, "3");
    head_pattern_free(&p);
}

struct hostile {
    const char *text;
    int format;
    const char *words; /* place and message */
};

static const struct hostile hostile[] = {
    {"", HEAD_PATTERN_N_FORMATS, "holds no numbers"},
    {"\n \n", HEAD_PATTERN_WG_KV, "holds no numbers"},
    {"0.5\t0.5\n0.5\n", HEAD_PATTERN_N_FORMATS, "f:2: 1 columns, the first row has 2"},
    {"0.5\t0.5\n\n0.5\t0.5\n", HEAD_PATTERN_N_FORMATS, "f:3: numbers after an empty line"},
    {"0.5\tx\n", HEAD_PATTERN_N_FORMATS, "f:1: column 2: \"x\" is not a finite number"},
    {"0.5\t\n", HEAD_PATTERN_N_FORMATS, "f:1: column 2"},
    {"\n0.5\tnan\n", HEAD_PATTERN_N_FORMATS, "f:2: column 2"},
    {"0.5\tinf\n", HEAD_PATTERN_DUO_ATTENTION, "f:1: column 2"},
    {"0.5\t1e999\n", HEAD_PATTERN_DUO_ATTENTION, "f:1: column 2"},
    {"0.5\t0x1p-1\n", HEAD_PATTERN_DUO_ATTENTION, "f:1: column 2"},
    {"0.5 0.5\n", HEAD_PATTERN_WG_KV, "f:1: column 1"},
    {"0.5,0.5\n", HEAD_PATTERN_DUO_ATTENTION, "f:1: column 1"},
    {"0.5\t\xff\xfe\x01\n", HEAD_PATTERN_N_FORMATS, "f:1: column 2: \"???\""},
    {"0.5\t0.2\n0.5\t1.2\n", HEAD_PATTERN_N_FORMATS, "f:2: column 2: 1.2"},
    {"0.5\t-0.2\n", HEAD_PATTERN_WG_KV, "f:1: column 2: -0.2"},
    {"0.0000000000000000000000000000000000000000000000000000000000000000001\n", HEAD_PATTERN_WG_KV, "f:1: column 1"},
    {"[", HEAD_PATTERN_N_FORMATS, "line 1"},
    {"[]", HEAD_PATTERN_N_FORMATS, "0 layers"},
    {"[0.5, 2]", HEAD_PATTERN_N_FORMATS, "[1]"},
    {"[0.5, -1]", HEAD_PATTERN_N_FORMATS, "[1]"},
    {"[0.5, \"0.5\"]", HEAD_PATTERN_N_FORMATS, "[1]"},
    {"{\"compression_ratios\": 3}", HEAD_PATTERN_N_FORMATS, "compression_ratios"},
    {"{\"model_type\": \"llama\"}", HEAD_PATTERN_N_FORMATS, "\"layer_types\" is missing"},
    {"{\"layer_types\": [\"full_attention\"], \"num_hidden_layers\": 2000000000}", HEAD_PATTERN_N_FORMATS, "1 entries"},
    {"{\"layer_types\": [\"full_attention\"], \"num_key_value_heads\": 2000000000}", HEAD_PATTERN_N_FORMATS,
     "num_key_value"},
    {"{\"layer_types\": [\"full_attention\"], \"num_attention_heads\": 1000000}", HEAD_PATTERN_N_FORMATS,
     "1000000 KV heads"},
    {"{\"layer_types\": [3]}", HEAD_PATTERN_N_FORMATS, "\"layer_types\"[0]"},
    {"{\"layer_types\": []}", HEAD_PATTERN_N_FORMATS, "0 layers"},
    {"{\"layer_types\": [\"full_attention\"], \"sliding_window\": -4}", HEAD_PATTERN_N_FORMATS, "sliding_window"},
    {"[1, 1]", HEAD_PATTERN_LAYER_TYPES, "is no config.json"},
    {"\"text\"", HEAD_PATTERN_KVPRESS, "not valid JSON"},
    {"{\"a\": 1, \"a\": 2}", HEAD_PATTERN_KVPRESS, "line 1"},
};

static void test_hostile(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        struct head_pattern p;
        struct err err = {0};
        size_t n = strlen(hostile[i].text);
        char *exact = malloc(n ? n : 1); /* so that a sanitizer sees a read past the end */
        memcpy(exact, hostile[i].text, n);
        int rc = head_pattern_parse(exact, n, "f", (enum head_pattern_format)hostile[i].format, 4, &p, &err);
        expect_error(rc, &err, ERR_INPUT, hostile[i].words);
        assert_null(p.value);
        free(exact);
    }
    struct head_pattern p;
    struct err err = {0};
    expect_error(head_pattern_parse("0.5\t1\0junk\n", 11, "f", HEAD_PATTERN_WG_KV, 0, &p, &err), &err, ERR_INPUT, "f:1");
}

/* Matrices that are too large are refused at the first cell or row that is. */
static void test_bombs(void **state) {
    enum { CELLS = 100000 };
    char *text = malloc(2 * CELLS);
    struct head_pattern p;
    struct err err = {0};
    (void)state;
    for (size_t i = 0; i < CELLS; i++)
        memcpy(text + 2 * i, "1\t", 2);
    expect_error(head_pattern_parse(text, 2 * CELLS, "f", HEAD_PATTERN_WG_KV, 0, &p, &err), &err, ERR_INPUT,
                 "f:1: more than 1024 columns");
    for (size_t i = 0; i < CELLS; i++)
        text[2 * i + 1] = '\n';
    err = (struct err){0};
    expect_error(head_pattern_parse(text, 2 * CELLS, "f", HEAD_PATTERN_WG_KV, 0, &p, &err), &err, ERR_INPUT,
                 "f:4097: more than 4096 rows");
    text[0] = '[';
    for (size_t i = 1; i < 2 * CELLS - 1; i++)
        text[i] = i % 2 ? '1' : ',';
    text[2 * CELLS - 2] = '1';
    text[2 * CELLS - 1] = ']';
    err = (struct err){0};
    text[2 * CELLS - 2] = ' ';
    expect_error(head_pattern_parse(text, 2 * CELLS, "f", HEAD_PATTERN_KVPRESS, 4, &p, &err), &err, ERR_INPUT, "layers");
    err = (struct err){0};
    expect_error(head_pattern_parse("[1]", 3, "f", HEAD_PATTERN_KVPRESS, 2000000000, &p, &err), &err, ERR_INPUT, "KV heads");
    free(text);
}

static void test_places(void **state) {
    struct head_pattern p;
    struct err err = {0};
    (void)state;
    scratch_write_text(&scratch, "beside/gates.tsv", "1\t0\n");
    scratch_write_text(&scratch, "beside/config.json", "{\"sink_size\": 16}");
    expect_error(head_pattern_read(scratch_path(&scratch, "beside/gates.tsv"), HEAD_PATTERN_N_FORMATS, 0, &p, &err), &err,
                 ERR_INPUT, "recent_size");
    scratch_write_text(&scratch, "beside/config.json", "{\"sink_size\": 16, \"recent_size\": 64}");
    err = (struct err){0};
    must(head_pattern_read(scratch_path(&scratch, "beside/gates.tsv"), HEAD_PATTERN_N_FORMATS, 0, &p, &err), &err);
    assert_true(p.format == HEAD_PATTERN_DUO_ATTENTION && p.window == 64 && p.sinks == 16);
    head_pattern_free(&p);
    scratch_write_text(&scratch, "empty/nothing.txt", "");
    expect_error(head_pattern_read(scratch_path(&scratch, "empty"), HEAD_PATTERN_N_FORMATS, 0, &p, &err), &err, ERR_INPUT,
                 "neither");
    err = (struct err){0};
    expect_error(head_pattern_read(scratch_path(&scratch, "absent.tsv"), HEAD_PATTERN_N_FORMATS, 0, &p, &err), &err, ERR_IO,
                 "absent.tsv");
}

/* Published patterns as they are. */
static void test_published(void **state) {
    const char *dir = "../shared/data/head-patterns";
    struct head_pattern p;
    struct err err = {0};
    double sum = 0;
    (void)state;
    if (!file_is_dir(dir)) {
        print_message("SKIP: ../shared/data/head-patterns is not there\n");
        skip();
    }
    must(head_pattern_read("../shared/data/head-patterns/duo-attention/Meta-Llama-3.1-8B-Instruct", HEAD_PATTERN_N_FORMATS,
                           0, &p, &err), &err);
    assert_true(p.format == HEAD_PATTERN_DUO_ATTENTION && p.n_layers == 32 && p.n_kv_heads == 8);
    assert_true(p.window == 256 && p.sinks == 128 && p.n_clipped == 0);
    for (size_t i = 0; i < 256; i++)
        sum += p.value[i];
    assert_true(fabs(sum / 256 - 0.852) < 5e-4); /* counted independently from the same file */
    assert_int_equal(head_pattern_count(&p, 1, NULL), 57);
    assert_int_equal(head_pattern_count(&p, 0.5, NULL), 234);
    head_pattern_free(&p);
    must(head_pattern_read("../shared/data/head-patterns/wg-kv/llama-3.1-8b-instruct/0.8_retain_ratio.tsv",
                           HEAD_PATTERN_N_FORMATS, 0, &p, &err), &err);
    assert_true(p.format == HEAD_PATTERN_WG_KV && p.n_layers == 32 && p.n_kv_heads == 8);
    sum = 0;
    for (size_t i = 0; i < 256; i++)
        sum += p.value[i];
    assert_true(fabs(sum / 256 - 0.2) < 5e-4);
    head_pattern_free(&p);
}

static int open_scratch(void **state) {
    (void)state;
    scratch_open(&scratch);
    return 0;
}

static int close_scratch(void **state) {
    (void)state;
    scratch_close(&scratch);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_duo_attention), cmocka_unit_test(test_duo_attention_comes_back),
        cmocka_unit_test(test_kvpress),       cmocka_unit_test(test_wg_kv),
        cmocka_unit_test(test_rounding),      cmocka_unit_test(test_config),
        cmocka_unit_test(test_config_refused), cmocka_unit_test(test_clipping_and_ties),
        cmocka_unit_test(test_hostile),       cmocka_unit_test(test_bombs),
        cmocka_unit_test(test_places),        cmocka_unit_test(test_published),
    };
    return cmocka_run_group_tests(tests, open_scratch, close_scratch);
}
