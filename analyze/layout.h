/* layout.h - which KV heads keep everything and which see only a window: the struct, its JSON file, what it costs. The
 * strategies that choose heads are strategy.h.
 *
 * A head is global (keeps every pair), local (window + sinks) or sliding (a layer of the model that has a sliding window of
 * its own: never made global, outside coverage and budgets). */
#ifndef SPKV_ANALYZE_LAYOUT_H
#define SPKV_ANALYZE_LAYOUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum head_kind { HEAD_LOCAL, HEAD_GLOBAL, HEAD_SLIDING };

struct layout {
    uint32_t n_layers, n_kv_heads;
    uint8_t *heads;           /* (n_layers, n_kv_heads) enum head_kind, owned */
    uint32_t window, sinks;   /* of all local heads */
    uint32_t *windows;        /* (n_layers, n_kv_heads) window of each local head, NULL = `window`; owned */
    char base_model_hash[33]; /* "" = not said */
    json_t *made_by;          /* object, owned; NULL = not said */
    json_t *predicted;        /* object, owned */
    json_t *measured;         /* object, owned */
};

/* All heads local (sliding where sliding[layer]; NULL = none). */
int layout_create(uint32_t n_layers, uint32_t n_kv_heads, const bool *sliding, uint32_t window, uint32_t sinks,
                  struct layout **out, struct err *err);
void layout_free(struct layout *layout);

/* layout.json. Reading validates everything: format, version, shape, names of head kinds, a layer with sliding heads is
 * sliding as a whole; ERR_INPUT names file and key. */
int layout_read(const char *path, struct layout **out, struct err *err);
int layout_parse(const char *text, size_t n, const char *where, struct layout **out, struct err *err);
int layout_write(const struct layout *layout, const char *path, struct err *err);
json_t *layout_json(const struct layout *layout); /* a new reference; NULL when memory is short */

/* ERR_INPUT unless the layout fits a model of this shape and kind; a differing base_model_hash (either not "") is refused
 * too. sliding_window (n_layers) as in profile_meta, NULL = none. */
int layout_check_model(const struct layout *layout, uint32_t n_layers, uint32_t n_kv_heads, const uint32_t *sliding_window,
                       const char *base_model_hash, const char *where, struct err *err);

static inline enum head_kind layout_head(const struct layout *layout, size_t layer, size_t kv_head) {
    return (enum head_kind)layout->heads[layer * layout->n_kv_heads + kv_head];
}
uint32_t layout_window(const struct layout *layout, size_t layer, size_t kv_head);

size_t layout_n_global(const struct layout *layout);
size_t layout_n_eligible(const struct layout *layout); /* heads that are not sliding */
const char *layout_strategy(const struct layout *layout); /* made_by.strategy, or "?" */

/* Sum of the values of the global heads over the sum of all values (n_layers, n_kv_heads); sliding heads and NaN count
 * nothing; NaN when the sum is 0 (arXiv 2605.14037, section 4). */
double layout_coverage(const struct layout *layout, const double *value);

/* Resident pairs per position of context, over heads that are not sliding: global T, local min(T, window + sinks), divided
 * by T * heads. */
double layout_kv_fraction(const struct layout *layout, uint64_t context);

/* Bytes of K and V at a context length, all heads, sliding ones at their own window. */
double layout_kv_bytes(const struct layout *layout, uint64_t context, uint32_t head_dim, uint32_t element_bytes,
                       const uint32_t *sliding_window);

/* Fills `predicted`: {"coverage", "kv_fraction": {"4096": ...}, "kv_bytes": {...}}; a NaN coverage becomes null. */
int layout_predict(struct layout *layout, double coverage, const uint64_t *contexts, size_t n_contexts, uint32_t head_dim,
                   uint32_t element_bytes, const uint32_t *sliding_window, struct err *err);

#endif
