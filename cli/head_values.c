#include "cli/head_values.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/head_pattern.h"
#include "analyze/interchange.h"
#include "analyze/profile.h"
#include "analyze/statistics.h"
#include "base/file.h"
#include "base/mem.h"

/* The first bytes of a file, zero-terminated; empty when it cannot be read. */
static size_t peek(const char *path, char *out, size_t cap) {
    FILE *file = file_is_dir(path) ? NULL : fopen(path, "rb");
    size_t n = file ? fread(out, 1, cap - 1, file) : 0;
    out[n] = 0;
    if (file)
        fclose(file);
    return n;
}

bool is_run(const char *path) {
    char begin[9];
    size_t len = strlen(path);
    if (file_is_dir(path))
        return len > 5 && strcmp(path + len - 5, ".part") == 0;
    return peek(path, begin, sizeof begin) == 8 && memcmp(begin, "\x89HDF\r\n\x1a\n", 8) == 0;
}

bool is_layout(const char *path) {
    char begin[256];
    peek(path, begin, sizeof begin);
    return strstr(begin, "\"spkv-layout\"") != NULL;
}

static int take_run(const char *path, struct head_values *out, struct err *err) {
    struct profile *profile = NULL;
    struct statistics statistics = {0};
    struct head_measure measure = {0};
    int rc = profile_open(path, &profile, err);
    if (rc == OK)
        rc = statistics_compute(profile, -1, &statistics, err);
    if (rc == OK)
        rc = head_measure_compute(&statistics, profile_meta(profile), &measure, err);
    if (rc == OK && measure.kind == HEAD_MEASURE_NONE)
        rc = err_set(err, ERR_INPUT, path, "records neither gates nor attention: heads have no number");
    if (rc == OK) {
        *out = (struct head_values){(uint32_t)measure.n_layers, (uint32_t)measure.n_kv_heads, measure.value, measure.name,
                                    0};
        measure.value = NULL;
    }
    head_measure_free(&measure);
    statistics_free(&statistics);
    profile_close(profile);
    return rc;
}

static int take_layout(const char *path, struct head_values *out, struct err *err) {
    struct layout *layout;
    double *gates;
    int rc = layout_read(path, &layout, err);
    if (rc != OK)
        return rc;
    rc = interchange_gates(layout, &gates, err);
    if (rc == OK)
        *out = (struct head_values){layout->n_layers, layout->n_kv_heads, gates, "global head", layout_n_global(layout)};
    layout_free(layout);
    return rc;
}

static int take_pattern(const char *path, uint32_t n_kv_heads, struct head_values *out, struct err *err) {
    struct head_pattern pattern;
    int rc = head_pattern_read(path, HEAD_PATTERN_N_FORMATS, n_kv_heads, &pattern, err);
    if (rc == OK)
        *out = (struct head_values){pattern.n_layers, pattern.n_kv_heads, pattern.value, "imported value", 0};
    return rc;
}

int head_values_read(const char *path, uint32_t n_kv_heads, struct head_values *out, struct err *err) {
    *out = (struct head_values){0};
    return is_run(path)      ? take_run(path, out, err)
           : is_layout(path) ? take_layout(path, out, err)
                             : take_pattern(path, n_kv_heads, out, err);
}

void head_values_free(struct head_values *values) {
    free(values->value);
    *values = (struct head_values){0};
}
