#include "analyze/layout.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

int layout_create(uint32_t n_layers, uint32_t n_kv_heads, const bool *sliding, uint32_t window, uint32_t sinks,
                  struct layout **out, struct err *err) {
    size_t n;
    *out = NULL;
    ASSERT(size_mul(n_layers, n_kv_heads, &n));
    struct layout *layout = mem_alloc(1, sizeof *layout, "a layout", err);
    if (!layout)
        return ERR_MEMORY;
    layout->n_layers = n_layers;
    layout->n_kv_heads = n_kv_heads;
    layout->window = window;
    layout->sinks = sinks;
    if (!(layout->heads = mem_alloc(n, 1, "a layout", err))) {
        layout_free(layout);
        return ERR_MEMORY;
    }
    for (size_t i = 0; sliding && i < n; i++)
        layout->heads[i] = sliding[i / n_kv_heads] ? HEAD_SLIDING : HEAD_LOCAL;
    *out = layout;
    return OK;
}

void layout_free(struct layout *layout) {
    if (!layout)
        return;
    json_decref(layout->made_by);
    json_decref(layout->predicted);
    json_decref(layout->measured);
    free(layout->windows);
    free(layout->heads);
    free(layout);
}

static size_t n_heads(const struct layout *layout) {
    return (size_t)layout->n_layers * layout->n_kv_heads;
}

static size_t count_kind(const struct layout *layout, enum head_kind kind) {
    size_t n = 0;
    for (size_t i = 0; i < n_heads(layout); i++)
        n += layout->heads[i] == kind;
    return n;
}

size_t layout_n_global(const struct layout *layout) {
    return count_kind(layout, HEAD_GLOBAL);
}

size_t layout_n_eligible(const struct layout *layout) {
    return n_heads(layout) - count_kind(layout, HEAD_SLIDING);
}

uint32_t layout_window(const struct layout *layout, size_t layer, size_t kv_head) {
    return layout->windows ? layout->windows[layer * layout->n_kv_heads + kv_head] : layout->window;
}

const char *layout_strategy(const struct layout *layout) {
    const char *name = json_string_value(json_object_get(layout->made_by, "strategy"));
    return name ? name : "?";
}

int layout_check_model(const struct layout *layout, uint32_t n_layers, uint32_t n_kv_heads, const uint32_t *sliding_window,
                       const char *base_model_hash, const char *where, struct err *err) {
    if (layout->n_layers != n_layers || layout->n_kv_heads != n_kv_heads)
        return err_set(err, ERR_INPUT, where, "the layout is for %u layers x %u KV heads, the model has %u x %u",
                       layout->n_layers, layout->n_kv_heads, n_layers, n_kv_heads);
    if (layout->base_model_hash[0] && base_model_hash && *base_model_hash &&
        strcmp(layout->base_model_hash, base_model_hash) != 0)
        return err_set(err, ERR_INPUT, where,
                       "the layout was made for the model with base_model_hash %s, this one has %s\n"
                       "(remove base_model_hash from the layout to use it with another model of the same shape)",
                       layout->base_model_hash, base_model_hash);
    for (size_t i = 0; i < n_heads(layout); i++) {
        bool sliding = sliding_window && sliding_window[i / n_kv_heads] != 0;
        if ((layout->heads[i] == HEAD_SLIDING) != sliding)
            return err_set(err, ERR_INPUT, where,
                           "heads[%zu][%zu]: the layout says %s, but layer %zu of the model %s a sliding window of its own",
                           i / n_kv_heads, i % n_kv_heads, sliding ? "otherwise" : "sliding", i / n_kv_heads,
                           sliding ? "has" : "does not have");
    }
    return OK;
}

double layout_coverage(const struct layout *layout, const double *value) {
    double chosen = 0, all = 0;
    for (size_t i = 0; i < n_heads(layout); i++) {
        if (layout->heads[i] == HEAD_SLIDING || isnan(value[i]))
            continue;
        all += value[i];
        chosen += layout->heads[i] == HEAD_GLOBAL ? value[i] : 0;
    }
    return all > 0 ? chosen / all : (double)NAN;
}

/* Pairs of one head that are resident at a context length; sliding: the model's window. */
static double resident(const struct layout *layout, size_t head, uint64_t context, const uint32_t *sliding_window) {
    uint64_t near = (uint64_t)layout_window(layout, head / layout->n_kv_heads, head % layout->n_kv_heads) + layout->sinks;
    if (layout->heads[head] == HEAD_GLOBAL)
        return (double)context;
    if (layout->heads[head] == HEAD_SLIDING)
        near = sliding_window ? sliding_window[head / layout->n_kv_heads] : context;
    return (double)(context < near ? context : near);
}

double layout_kv_fraction(const struct layout *layout, uint64_t context) {
    double pairs = 0;
    for (size_t i = 0; i < n_heads(layout); i++)
        if (layout->heads[i] != HEAD_SLIDING)
            pairs += resident(layout, i, context, NULL);
    double full = (double)context * (double)layout_n_eligible(layout);
    return full > 0 ? pairs / full : (double)NAN;
}

double layout_kv_bytes(const struct layout *layout, uint64_t context, uint32_t head_dim, uint32_t element_bytes,
                       const uint32_t *sliding_window) {
    double pairs = 0;
    for (size_t i = 0; i < n_heads(layout); i++)
        pairs += resident(layout, i, context, sliding_window);
    return pairs * 2 * head_dim * element_bytes;
}

int layout_predict(struct layout *layout, double coverage, const uint64_t *contexts, size_t n_contexts, uint32_t head_dim,
                   uint32_t element_bytes, const uint32_t *sliding_window, struct err *err) {
    json_t *fraction = json_object(), *bytes = json_object();
    for (size_t i = 0; i < n_contexts; i++) {
        char key[32];
        snprintf(key, sizeof key, "%llu", (unsigned long long)contexts[i]);
        json_object_set_new(fraction, key, json_real(layout_kv_fraction(layout, contexts[i])));
        json_object_set_new(bytes, key,
                            json_real(layout_kv_bytes(layout, contexts[i], head_dim, element_bytes, sliding_window)));
    }
    json_decref(layout->predicted);
    layout->predicted = json_pack("{s:o, s:o, s:o}", "coverage", isnan(coverage) ? json_null() : json_real(coverage),
                                  "kv_fraction", fraction, "kv_bytes", bytes);
    return layout->predicted ? OK : err_memory(err, "a layout", 0);
}
