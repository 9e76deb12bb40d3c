/* layout.json, version 1:
 *   {"format": "spkv-layout", "version": 1, "model": {"n_layers", "n_kv_heads", "base_model_hash"}, "window", "sinks",
 *    "heads": [["global" | "local" | "sliding", ...], ...], optional "windows": [[...]],
 *    "made_by": {...}, "predicted": {...}, "measured": {...}} */
#include <stdlib.h>
#include <string.h>

#include "analyze/layout.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"

enum { MAX_LAYERS = 4096, MAX_KV_HEADS = 1024, MAX_FILE_BYTES = 1 << 26 };

static const char *const kind_names[] = {[HEAD_LOCAL] = "local", [HEAD_GLOBAL] = "global", [HEAD_SLIDING] = "sliding"};

static int read_format(const json_t *root, const char *where, struct err *err) {
    const char *format = "";
    int64_t version = 0;
    int rc = json_get_string(root, "format", &format, where, err);
    if (rc == OK && strcmp(format, "spkv-layout") != 0)
        rc = err_set(err, ERR_INPUT, where, "\"format\" is \"%s\", expected \"spkv-layout\"", format);
    if (rc == OK)
        rc = json_require(root, "version", where, err);
    if (rc == OK)
        rc = json_get_int(root, "version", 1, INT32_MAX, &version, where, err);
    if (rc == OK && version > 1)
        rc = err_set(err, ERR_INPUT, where, "\"version\" is %lld, this program reads version 1: use a newer spkv",
                     (long long)version);
    return rc;
}

static int read_hash(const json_t *model, char out[33], const char *where, struct err *err) {
    const char *hash = "";
    int rc = json_get_string(model, "base_model_hash", &hash, where, err);
    if (rc != OK)
        return rc;
    if (*hash && (strlen(hash) != 32 || strspn(hash, "0123456789abcdef") != 32))
        return err_set(err, ERR_INPUT, where, "\"base_model_hash\" is not 32 lower-case hexadecimal digits");
    strcpy(out, hash);
    return OK;
}

static int read_shape(const json_t *root, struct layout **out, const char *where, struct err *err) {
    json_t *model = NULL;
    int64_t n_layers = 0, n_kv_heads = 0, window = 0, sinks = 0;
    static const char *const required[] = {"model", "window", "heads"};
    int rc = OK;
    for (size_t i = 0; rc == OK && i < 3; i++)
        rc = json_require(root, required[i], where, err);
    if (rc == OK)
        rc = json_get_object(root, "model", &model, where, err);
    if (rc == OK)
        rc = json_require(model, "n_layers", where, err);
    if (rc == OK)
        rc = json_require(model, "n_kv_heads", where, err);
    if (rc == OK)
        rc = json_get_int(model, "n_layers", 1, MAX_LAYERS, &n_layers, where, err);
    if (rc == OK)
        rc = json_get_int(model, "n_kv_heads", 1, MAX_KV_HEADS, &n_kv_heads, where, err);
    if (rc == OK)
        rc = json_get_int(root, "window", 1, INT32_MAX, &window, where, err);
    if (rc == OK)
        rc = json_get_int(root, "sinks", 0, INT32_MAX, &sinks, where, err);
    if (rc == OK)
        rc = layout_create((uint32_t)n_layers, (uint32_t)n_kv_heads, NULL, (uint32_t)window, (uint32_t)sinks, out, err);
    return rc == OK ? read_hash(model, (*out)->base_model_hash, where, err) : rc;
}

/* The cell (layer, head) of a matrix member; ERR_INPUT when the matrix has another shape. */
static int read_cell(const json_t *matrix, const char *key, const struct layout *layout, size_t layer, size_t head,
                     const json_t **out, const char *where, struct err *err) {
    const json_t *row = json_array_get(matrix, layer);
    if (json_array_size(matrix) != layout->n_layers)
        return err_set(err, ERR_INPUT, where, "\"%s\" has %zu rows, the model has %u layers", key, json_array_size(matrix),
                       layout->n_layers);
    if (!json_is_array(row) || json_array_size(row) != layout->n_kv_heads)
        return err_set(err, ERR_INPUT, where, "\"%s\"[%zu] is not a list of %u", key, layer, layout->n_kv_heads);
    *out = json_array_get(row, head);
    return OK;
}

static int read_heads(const json_t *root, struct layout *layout, const char *where, struct err *err) {
    json_t *matrix = NULL;
    int rc = json_get_array(root, "heads", &matrix, where, err);
    for (size_t i = 0; rc == OK && i < (size_t)layout->n_layers * layout->n_kv_heads; i++) {
        size_t layer = i / layout->n_kv_heads, head = i % layout->n_kv_heads, kind = 0;
        const json_t *cell;
        if ((rc = read_cell(matrix, "heads", layout, layer, head, &cell, where, err)) != OK)
            break;
        const char *name = json_string_value(cell);
        while (name && kind < 3 && strcmp(name, kind_names[kind]) != 0)
            kind++;
        if (!name || kind == 3)
            return err_set(err, ERR_INPUT, where,
                           "\"heads\"[%zu][%zu] is %s%s, expected \"global\", \"local\" or \"sliding\"", layer, head,
                           name ? "" : "no string", name ? name : "");
        layout->heads[i] = (uint8_t)kind;
        if (head > 0 && (kind == HEAD_SLIDING) != (layout->heads[i - 1] == HEAD_SLIDING))
            return err_set(err, ERR_INPUT, where,
                           "\"heads\"[%zu] mixes sliding heads with others: a sliding window belongs to a whole layer of "
                           "the model", layer);
    }
    return rc;
}

static int read_windows(const json_t *root, struct layout *layout, const char *where, struct err *err) {
    json_t *matrix = NULL;
    size_t n = (size_t)layout->n_layers * layout->n_kv_heads;
    int rc = json_get_array(root, "windows", &matrix, where, err);
    if (rc != OK || !matrix)
        return rc;
    if (!(layout->windows = mem_alloc(n, sizeof *layout->windows, "windows of a layout", err)))
        return ERR_MEMORY;
    for (size_t i = 0; i < n; i++) {
        const json_t *cell;
        size_t layer = i / layout->n_kv_heads, head = i % layout->n_kv_heads;
        if ((rc = read_cell(matrix, "windows", layout, layer, head, &cell, where, err)) != OK)
            return rc;
        if (!json_is_integer(cell) || json_integer_value(cell) < 1 || json_integer_value(cell) > INT32_MAX)
            return err_set(err, ERR_INPUT, where, "\"windows\"[%zu][%zu] is not a positive integer", layer, head);
        layout->windows[i] = (uint32_t)json_integer_value(cell);
    }
    return OK;
}

/* An object that is carried along as it is. */
static int read_object(const json_t *root, const char *key, json_t **out, const char *where, struct err *err) {
    json_t *object = NULL;
    int rc = json_get_object(root, key, &object, where, err);
    *out = rc == OK && object ? json_incref(object) : NULL;
    return rc;
}

int layout_parse(const char *text, size_t n, const char *where, struct layout **out, struct err *err) {
    json_t *root = NULL;
    struct layout *layout = NULL;
    *out = NULL;
    int rc = json_parse_object(text, n, where, &root, err);
    if (rc == OK)
        rc = read_format(root, where, err);
    if (rc == OK)
        rc = read_shape(root, &layout, where, err);
    if (rc == OK)
        rc = read_heads(root, layout, where, err);
    if (rc == OK)
        rc = read_windows(root, layout, where, err);
    if (rc == OK)
        rc = read_object(root, "made_by", &layout->made_by, where, err);
    if (rc == OK)
        rc = read_object(root, "predicted", &layout->predicted, where, err);
    if (rc == OK)
        rc = read_object(root, "measured", &layout->measured, where, err);
    if (rc == OK)
        *out = layout;
    else
        layout_free(layout);
    json_decref(root);
    return rc;
}

int layout_read(const char *path, struct layout **out, struct err *err) {
    char *text;
    size_t n;
    *out = NULL;
    int rc = file_read_all(path, MAX_FILE_BYTES, &text, &n, err);
    if (rc != OK)
        return rc;
    rc = layout_parse(text, n, path, out, err);
    free(text);
    return rc;
}

static json_t *heads_json(const struct layout *layout) {
    json_t *matrix = json_array();
    for (size_t layer = 0; layer < layout->n_layers; layer++) {
        json_t *row = json_array();
        for (size_t head = 0; head < layout->n_kv_heads; head++)
            json_array_append_new(row, json_string(kind_names[layout_head(layout, layer, head)]));
        json_array_append_new(matrix, row);
    }
    return matrix;
}

static json_t *windows_json(const struct layout *layout) {
    json_t *matrix = json_array();
    for (size_t layer = 0; layer < layout->n_layers; layer++) {
        json_t *row = json_array();
        for (size_t head = 0; head < layout->n_kv_heads; head++)
            json_array_append_new(row, json_integer(layout_window(layout, layer, head)));
        json_array_append_new(matrix, row);
    }
    return matrix;
}

json_t *layout_json(const struct layout *layout) {
    json_t *root = json_pack("{s:s, s:i, s:{s:i, s:i, s:s}, s:I, s:I, s:o}", "format", "spkv-layout", "version", 1, "model",
                             "n_layers", (int)layout->n_layers, "n_kv_heads", (int)layout->n_kv_heads, "base_model_hash",
                             layout->base_model_hash, "window", (json_int_t)layout->window, "sinks",
                             (json_int_t)layout->sinks, "heads", heads_json(layout));
    if (layout->windows)
        json_object_set_new(root, "windows", windows_json(layout));
    if (layout->made_by)
        json_object_set(root, "made_by", layout->made_by);
    if (layout->predicted)
        json_object_set(root, "predicted", layout->predicted);
    if (layout->measured)
        json_object_set(root, "measured", layout->measured);
    else
        json_object_set_new(root, "measured", json_pack("{s:{}, s:{}}", "zero_shot", "healed"));
    return root;
}

/* JSON with one layer of a matrix in a line, so that people can read it. */
int layout_write(const struct layout *layout, const char *path, struct err *err) {
    json_t *root = layout_json(layout), *value;
    const char *key;
    struct str text = {0};
    if (!root)
        return err_memory(err, "a layout", 0);
    str_puts(&text, "{");
    json_object_foreach(root, key, value) {
        bool matrix = json_is_array(value);
        str_printf(&text, "%s\n  \"%s\": ", text.len > 1 ? "," : "", key);
        char *compact = matrix ? NULL : json_dumps(value, JSON_ENCODE_ANY);
        if (compact)
            str_puts(&text, compact);
        else if (!matrix)
            text.failed = true;
        free(compact);
        for (size_t i = 0; matrix && i < json_array_size(value); i++) {
            char *row = json_dumps(json_array_get(value, i), 0);
            str_printf(&text, "%s\n    %s", i ? "," : "[", row ? row : "");
            text.failed |= !row;
            free(row);
        }
        if (matrix)
            str_puts(&text, "\n  ]");
    }
    str_puts(&text, "\n}\n");
    json_decref(root);
    int rc = text.failed ? err_memory(err, "a layout", text.len) : file_write_all(path, text.data, text.len, err);
    str_free(&text);
    return rc;
}
