#include "analyze/interchange.h"

#include <math.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"

static int allocate(const struct layout *layout, double **out, struct err *err) {
    *out = mem_alloc((size_t)layout->n_layers * layout->n_kv_heads, sizeof **out, "a head pattern", err);
    return *out ? OK : ERR_MEMORY;
}

int interchange_retained(const struct layout *layout, uint64_t context, double **out, struct err *err) {
    int rc = allocate(layout, out, err);
    for (size_t i = 0; rc == OK && i < (size_t)layout->n_layers * layout->n_kv_heads; i++) {
        size_t layer = i / layout->n_kv_heads, head = i % layout->n_kv_heads;
        uint64_t near = (uint64_t)layout_window(layout, layer, head) + layout->sinks;
        (*out)[i] = layout->heads[i] != HEAD_LOCAL || near >= context ? 1 : (double)near / (double)context;
    }
    return rc;
}

int interchange_gates(const struct layout *layout, double **out, struct err *err) {
    int rc = allocate(layout, out, err);
    for (size_t i = 0; rc == OK && i < (size_t)layout->n_layers * layout->n_kv_heads; i++)
        (*out)[i] = layout->heads[i] == HEAD_GLOBAL;
    return rc;
}

/* One layer a line. */
static int write_grid(const double *value, uint32_t n_layers, uint32_t n_kv_heads, const char *format, char separator,
                      const char *path, struct err *err) {
    struct str text = {0};
    for (size_t i = 0; i < (size_t)n_layers * n_kv_heads; i++) {
        char cell[64];
        snprintf(cell, sizeof cell, format, value[i]);
        str_puts(&text, cell);
        str_putc(&text, (i + 1) % n_kv_heads ? separator : '\n');
    }
    int rc = text.failed ? err_memory(err, "a head pattern", text.len) : file_write_all(path, text.data, text.len, err);
    str_free(&text);
    return rc;
}

int interchange_write_duo_attention(const double *value, uint32_t n_layers, uint32_t n_kv_heads, uint32_t sinks,
                                    uint32_t recent, const char *dir, bool force, struct err *err) {
    char *matrix = file_join(dir, "full_attention_heads.tsv", err), *config = file_join(dir, "config.json", err);
    json_t *sizes = json_pack("{s:I, s:I}", "sink_size", (json_int_t)sinks, "recent_size", (json_int_t)recent);
    int rc = matrix && config && sizes ? OK : err_memory(err, "a path", 0);
    if (rc == OK)
        rc = file_make_dirs(dir, err);
    if (rc == OK)
        rc = file_check_free(matrix, force, err);
    if (rc == OK)
        rc = file_check_free(config, force, err);
    if (rc == OK)
        rc = json_write_file(sizes, config, err);
    if (rc == OK)
        rc = write_grid(value, n_layers, n_kv_heads, "%.18e", '\t', matrix, err);
    json_decref(sizes);
    free(config);
    free(matrix);
    return rc;
}

int interchange_write_wg_kv(const double *value, uint32_t n_layers, uint32_t n_kv_heads, bool log, const char *path,
                            struct err *err) {
    return log ? write_grid(value, n_layers, n_kv_heads, "%.6f", ',', path, err)
               : write_grid(value, n_layers, n_kv_heads, "%.4f", '\t', path, err);
}

int interchange_write_kvpress(const double *value, uint32_t n_layers, uint32_t n_kv_heads, const char *path,
                              struct err *err) {
    struct str text = {0};
    for (size_t layer = 0; layer < n_layers; layer++) {
        double kept = 0;
        for (size_t head = 0; head < n_kv_heads; head++)
            kept += value[layer * n_kv_heads + head] / n_kv_heads;
        str_printf(&text, "%s%.6f", layer ? ", " : "[", fmax(0, (ceil((1 - kept) * 1e6) - 1) / 1e6));
    }
    str_puts(&text, "]\n");
    int rc = text.failed ? err_memory(err, "a list", text.len) : file_write_all(path, text.data, text.len, err);
    str_free(&text);
    return rc;
}
