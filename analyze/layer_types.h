/* layer_types.h - a layout of heads as one of whole layers, and as what Hugging Face configurations can say: layer_types and
 * one sliding_window. */
#ifndef SPKV_ANALYZE_LAYER_TYPES_H
#define SPKV_ANALYZE_LAYER_TYPES_H

#include <jansson.h>
#include <stddef.h>

#include "analyze/layout.h"
#include "base/err.h"

/* What the rounding costs. */
struct layer_rounding {
    size_t n_full;                    /* layers that are global as a whole */
    size_t n_lost, n_gained;          /* global heads that become local, and the other way round */
    double coverage_heads, coverage_layers; /* of the values, before and after; NaN without values */
};

/* As many layers as the global heads pay for (at least one where there is a global head): those with the most global heads
 * first, of equal ones those with the larger sum of values, then the lower ones. value (n_layers, n_kv_heads) or NULL. */
int layer_types_round(const struct layout *heads, const double *value, struct layout **out, struct layer_rounding *rounding,
                      struct err *err);

/* Adds layer_types and sliding_window to a configuration, in place, with what else its model type needs to follow them: a
 * llama, whose readers ignore layer_types, becomes the mistral that it is in all but name (with biases: a smollm3). Every
 * change and every loss is handed to `note`. An empty object becomes a patch for any model. ERR_INPUT where the layout
 * cannot be said: another shape, two lengths of windows, a model whose sliding layers have another RoPE. */
int layer_types_patch(const struct layout *layers, json_t *config, const char *where,
                      void (*note)(void *self, const char *text), void *self, struct err *err);

#endif
