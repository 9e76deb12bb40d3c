#include "analyze/head_pattern.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/number_grid.h"
#include "analyze/strategy.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"

enum { MAX_LAYERS = 4096, MAX_KV_HEADS = 1024, MAX_FILE_BYTES = 1 << 27, MAX_JSON_BYTES = 1 << 22 };

static const char duo_file[] = "full_attention_heads.tsv";
static const char *const format_names[] = {"duo-attention", "wg-kv", "wg-kv-log", "kvpress", "layer-types"};

const char *head_pattern_format_name(enum head_pattern_format format) {
    return format < HEAD_PATTERN_N_FORMATS ? format_names[format] : "?";
}

enum head_pattern_format head_pattern_find_format(const char *name) {
    int i = 0;
    while (i < HEAD_PATTERN_N_FORMATS && strcmp(format_names[i], name) != 0)
        i++;
    return (enum head_pattern_format)i;
}

void head_pattern_free(struct head_pattern *p) {
    free(p->value);
    *p = (struct head_pattern){0};
}

/* -- matrices of text ------------------------------------------------------------------------------------------------- */

/* Gates are clipped, shares must be shares. */
static int check_value(struct head_pattern *p, double *x, const char *path, size_t line, size_t column, struct err *err) {
    double clipped = fmin(fmax(*x, 0), 1);
    if (clipped == *x)
        return OK;
    if (p->format != HEAD_PATTERN_DUO_ATTENTION)
        return number_grid_refuse(path, line, err, "column %zu: %g is no share of what is kept, 0 to 1 (gates of "
                                  "DuoAttention are clipped: --format duo-attention)", column + 1, *x);
    *x = clipped;
    p->n_clipped++;
    return OK;
}

static int take_grid(const char *text, size_t n, const char *path, struct head_pattern *p, struct err *err) {
    struct number_grid grid;
    char separator = p->format == HEAD_PATTERN_WG_KV_LOG ? ',' : '\t';
    int rc = number_grid_parse(text, n, separator, MAX_LAYERS, MAX_KV_HEADS, path, &grid, err);
    if (rc != OK)
        return rc;
    p->n_layers = (uint32_t)grid.n_rows;
    p->n_kv_heads = (uint32_t)grid.n_columns;
    p->value = grid.values;
    for (size_t i = 0; rc == OK && i < grid.n_rows * grid.n_columns; i++)
        rc = check_value(p, &p->value[i], path, grid.first_line + i / grid.n_columns, i % grid.n_columns, err);
    return rc;
}

/* -- one value a layer ------------------------------------------------------------------------------------------------ */

static int allocate_layers(struct head_pattern *p, size_t n_layers, uint32_t n_kv_heads, const char *path, struct err *err) {
    if (n_layers == 0 || n_layers > MAX_LAYERS)
        return err_set(err, ERR_INPUT, path, "%zu layers (1 to %d are possible)", n_layers, MAX_LAYERS);
    if (n_kv_heads == 0)
        return err_set(err, ERR_INPUT, path, "has one value a layer: how many KV heads has the model? (--kv-heads N, or "
                       "--model DIR)");
    p->n_layers = (uint32_t)n_layers;
    p->n_kv_heads = n_kv_heads;
    p->value = mem_alloc(n_layers * n_kv_heads, sizeof *p->value, "a head pattern", err);
    return p->value ? OK : ERR_MEMORY;
}

static void set_layer(struct head_pattern *p, size_t layer, double value) {
    for (size_t head = 0; head < p->n_kv_heads; head++)
        p->value[layer * p->n_kv_heads + head] = value;
}

static int take_ratios(const json_t *list, const char *path, uint32_t n_kv_heads, struct head_pattern *p, struct err *err) {
    int rc = allocate_layers(p, json_array_size(list), n_kv_heads, path, err);
    for (size_t i = 0; rc == OK && i < p->n_layers; i++) {
        const json_t *cell = json_array_get(list, i);
        double ratio = json_is_number(cell) ? json_number_value(cell) : (double)NAN;
        if (!(ratio >= 0 && ratio <= 1))
            return err_set(err, ERR_INPUT, path, "compression ratio [%zu] is no number from 0 to 1", i);
        set_layer(p, i, 1 - ratio);
    }
    return rc;
}

/* The KV heads of a config.json, 0 = not said. */
static int config_kv_heads(const json_t *config, const char *path, uint32_t *out, struct err *err) {
    int64_t n_heads = 0, n_kv_heads;
    int rc = json_get_int(config, "num_attention_heads", 1, 1 << 20, &n_heads, path, err);
    n_kv_heads = n_heads;
    if (rc == OK)
        rc = json_get_int(config, "num_key_value_heads", 1, MAX_KV_HEADS, &n_kv_heads, path, err);
    if (rc == OK && n_kv_heads > MAX_KV_HEADS)
        rc = err_set(err, ERR_INPUT, path, "%lld KV heads (at most %d are possible)", (long long)n_kv_heads, MAX_KV_HEADS);
    *out = (uint32_t)n_kv_heads;
    return rc;
}

static int take_layer_types(const json_t *config, const char *path, uint32_t n_kv_heads, struct head_pattern *p,
                            struct err *err) {
    json_t *list = NULL;
    int64_t window = 0, n_layers;
    uint32_t own = 0;
    int rc = json_require(config, "layer_types", path, err);
    if (rc == OK)
        rc = json_get_array(config, "layer_types", &list, path, err);
    n_layers = (int64_t)json_array_size(list);
    if (rc == OK)
        rc = json_get_int(config, "num_hidden_layers", 1, INT32_MAX, &n_layers, path, err);
    if (rc == OK && (size_t)n_layers != json_array_size(list))
        rc = err_set(err, ERR_INPUT, path, "\"layer_types\" has %zu entries for %lld layers", json_array_size(list),
                     (long long)n_layers);
    if (rc == OK)
        rc = json_get_int(config, "sliding_window", 1, INT32_MAX, &window, path, err);
    if (rc == OK)
        rc = config_kv_heads(config, path, &own, err);
    if (rc == OK)
        rc = allocate_layers(p, json_array_size(list), own ? own : n_kv_heads, path, err);
    for (size_t i = 0; rc == OK && i < p->n_layers; i++) {
        const char *kind = json_string_value(json_array_get(list, i));
        if (!kind)
            return err_set(err, ERR_INPUT, path, "\"layer_types\"[%zu] is no string", i);
        bool sliding = strcmp(kind, "sliding_attention") == 0;
        set_layer(p, i, sliding ? 0 : 1);
        p->n_unknown += !sliding && strcmp(kind, "full_attention") != 0;
    }
    p->window = (uint32_t)window;
    return rc;
}

static int take_json(const char *text, size_t n, const char *path, uint32_t n_kv_heads, struct head_pattern *p,
                     struct err *err) {
    json_t *root, *list = NULL;
    int rc = n > MAX_JSON_BYTES ? err_set(err, ERR_INPUT, path, "is larger than %d bytes: no list of layers is",
                                          MAX_JSON_BYTES)
                                : json_parse(text, n, path, &root, err);
    if (rc != OK)
        return rc;
    if (p->format == HEAD_PATTERN_LAYER_TYPES && json_is_object(root)) {
        rc = take_layer_types(root, path, n_kv_heads, p, err);
    } else if (p->format == HEAD_PATTERN_KVPRESS && json_is_array(root)) {
        rc = take_ratios(root, path, n_kv_heads, p, err);
    } else if (p->format == HEAD_PATTERN_KVPRESS && json_is_object(root)) {
        if ((rc = json_require(root, "compression_ratios", path, err)) == OK &&
            (rc = json_get_array(root, "compression_ratios", &list, path, err)) == OK)
            rc = take_ratios(list, path, n_kv_heads, p, err);
    } else {
        rc = err_set(err, ERR_INPUT, path, "is no %s", p->format == HEAD_PATTERN_KVPRESS
                     ? "list of compression ratios" : "config.json");
    }
    json_decref(root);
    return rc;
}

/* -- which format ----------------------------------------------------------------------------------------------------- */

/* Content that begins like JSON is a list of ratios or a configuration; numbers with commas between are a log. */
static enum head_pattern_format guess(const char *text, size_t n) {
    size_t i = 0, line;
    while (i < n && memchr(" \t\r\n", text[i], 4))
        i++;
    line = i;
    while (line < n && text[line] != '\n')
        line++;
    if (i < n && text[i] == '[')
        return HEAD_PATTERN_KVPRESS;
    if (i < n && text[i] == '{')
        return memmem(text, n, "\"compression_ratios\"", 20) ? HEAD_PATTERN_KVPRESS : HEAD_PATTERN_LAYER_TYPES;
    return memchr(text + i, ',', line - i) ? HEAD_PATTERN_WG_KV_LOG : HEAD_PATTERN_WG_KV;
}

int head_pattern_parse(const char *text, size_t n, const char *path, enum head_pattern_format format, uint32_t n_kv_heads,
                       struct head_pattern *out, struct err *err) {
    struct head_pattern p = {.format = format < HEAD_PATTERN_N_FORMATS ? format : guess(text, n)};
    bool json = p.format == HEAD_PATTERN_KVPRESS || p.format == HEAD_PATTERN_LAYER_TYPES;
    *out = (struct head_pattern){0};
    int rc = n_kv_heads > MAX_KV_HEADS ? err_set(err, ERR_INPUT, path, "%u KV heads (at most %d are possible)", n_kv_heads,
                                                 MAX_KV_HEADS)
             : json                    ? take_json(text, n, path, n_kv_heads, &p, err)
                                       : take_grid(text, n, path, &p, err);
    if (rc == OK)
        *out = p;
    else
        head_pattern_free(&p);
    return rc;
}

/* sink_size and recent_size of the configuration beside a DuoAttention matrix; *found tells whether it is one. */
static int read_duo_config(const char *matrix, bool *found, int64_t *window, int64_t *sinks, struct err *err) {
    json_t *config = NULL;
    struct str path = {0};
    size_t dir_len = (size_t)(file_basename(matrix) - matrix);
    str_append(&path, matrix, dir_len);
    str_puts(&path, "config.json");
    int rc = path.failed ? err_memory(err, "a path", dir_len) : OK;
    *found = false;
    if (rc == OK && file_exists(str_text(&path)))
        rc = json_read_object(str_text(&path), MAX_JSON_BYTES, &config, err);
    *found = config && json_has(config, "sink_size");
    if (rc == OK && *found)
        rc = json_require(config, "recent_size", str_text(&path), err);
    if (rc == OK && *found)
        rc = json_get_int(config, "sink_size", 0, INT32_MAX, sinks, str_text(&path), err);
    if (rc == OK && *found)
        rc = json_get_int(config, "recent_size", 1, INT32_MAX, window, str_text(&path), err);
    json_decref(config);
    str_free(&path);
    return rc;
}

static int read_file(const char *path, enum head_pattern_format format, uint32_t n_kv_heads, struct head_pattern *out,
                     struct err *err) {
    char *text;
    size_t n;
    bool duo = false, may_be_duo;
    int64_t window = 0, sinks = 0;
    int rc = file_read_all(path, MAX_FILE_BYTES, &text, &n, err);
    if (rc != OK)
        return rc;
    may_be_duo = format == HEAD_PATTERN_DUO_ATTENTION ||
                 (format == HEAD_PATTERN_N_FORMATS && guess(text, n) == HEAD_PATTERN_WG_KV);
    if (may_be_duo)
        rc = read_duo_config(path, &duo, &window, &sinks, err);
    if (may_be_duo && (duo || strcmp(file_basename(path), duo_file) == 0))
        format = HEAD_PATTERN_DUO_ATTENTION;
    if (rc == OK)
        rc = head_pattern_parse(text, n, path, format, n_kv_heads, out, err);
    if (rc == OK && duo) {
        out->window = (uint32_t)window;
        out->sinks = (uint32_t)sinks;
    }
    free(text);
    return rc;
}

int head_pattern_read(const char *path, enum head_pattern_format format, uint32_t n_kv_heads, struct head_pattern *out,
                      struct err *err) {
    *out = (struct head_pattern){0};
    if (!file_is_dir(path))
        return read_file(path, format, n_kv_heads, out, err);
    char *inside = file_join(path, duo_file, err);
    if (inside && !file_exists(inside)) {
        free(inside);
        inside = file_join(path, "config.json", err);
    }
    int rc = inside ? OK : ERR_MEMORY;
    if (inside && !file_exists(inside))
        rc = err_set(err, ERR_INPUT, path, "holds neither %s nor config.json", duo_file);
    if (rc == OK)
        rc = read_file(inside, format, n_kv_heads, out, err);
    free(inside);
    return rc;
}

/* -- layouts ---------------------------------------------------------------------------------------------------------- */

size_t head_pattern_count(const struct head_pattern *p, double threshold, const bool *sliding) {
    size_t n = 0;
    for (size_t i = 0; i < (size_t)p->n_layers * p->n_kv_heads; i++)
        n += p->value[i] >= threshold && !(sliding && sliding[i / p->n_kv_heads]);
    return n;
}

/* The least value that is global, where heads of the same value are local too. */
static int note_ties(const struct head_pattern *p, struct layout *layout, struct err *err) {
    double least = INFINITY;
    size_t n_equal = 0, n_chosen = 0, n = (size_t)p->n_layers * p->n_kv_heads;
    struct str text = {0};
    for (size_t i = 0; i < n; i++)
        if (layout->heads[i] == HEAD_GLOBAL)
            least = fmin(least, p->value[i]);
    for (size_t i = 0; i < n; i++) {
        n_equal += layout->heads[i] != HEAD_SLIDING && p->value[i] == least;
        n_chosen += layout->heads[i] == HEAD_GLOBAL && p->value[i] == least;
    }
    if (n_equal == n_chosen)
        return OK;
    str_printf(&text, "%zu of %zu heads with the value %g are global: ties go to the lower layer, then the lower head",
               n_chosen, n_equal, least);
    json_object_set_new(layout->made_by, "ties", json_string(str_text(&text)));
    int rc = text.failed ? err_memory(err, "a note", text.len) : OK;
    str_free(&text);
    return rc;
}

int head_pattern_layout(const struct head_pattern *p, size_t n_global, uint32_t window, uint32_t sinks, const bool *sliding,
                        struct layout **out, struct err *err) {
    struct strategy imported = {.kind = STRATEGY_DENSEST_HEADS, .name = "imported"};
    struct strategy_input input = {.n_layers = p->n_layers, .n_kv_heads = p->n_kv_heads, .value = p->value,
                                   .sliding = sliding, .window = window, .sinks = sinks};
    int rc = strategy_apply(&imported, &input, n_global, out, err);
    if (rc != OK)
        return rc;
    json_object_set_new((*out)->made_by, "format", json_string(head_pattern_format_name(p->format)));
    rc = note_ties(p, *out, err);
    if (rc != OK) {
        layout_free(*out);
        *out = NULL;
    }
    return rc;
}
