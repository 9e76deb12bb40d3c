/* observer.h - what the engine reports while it runs. Callbacks run on the caller's thread, between steps; pointers are
 * borrowed for the call. A NULL callback costs nothing: what only it needs is neither computed nor copied. */
#ifndef SPKV_ENGINE_OBSERVER_H
#define SPKV_ENGINE_OBSERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/source.h"

/* Scores and gates of consecutive tokens of one sequence. */
struct gate_report {
    const struct sequence *sequence;
    size_t first, n;        /* tokens first .. first + n - 1 */
    int n_layers, n_kv_heads;
    const float *utility;   /* NULL when the policy has no scores; element (layer, token - first, kv_head) is
                               utility[layer * layer_stride + (token - first) * n_kv_heads + kv_head] */
    const uint8_t *open;    /* NULL when the policy has no gates; same strides, 0 or 1 */
    size_t layer_stride;
    const bool *gated;      /* (n_layers) false: the model's own sliding layer, no score or gate there */
};

/* One finished sequence. Arrays of (n_layers, n_kv_heads); zeros in sliding layers. */
struct sequence_report {
    const struct sequence *sequence;
    size_t n_predicted;
    double nll_sum;
    const float *nll;               /* (n_tok) loss of predicting this token; NaN for the first and where not scored */
    size_t n_argmax;                /* predicted tokens that were the most likely ones */
    const uint8_t *is_argmax;       /* (n_tok) 1 where this token was the most likely one; 0 where nll is NaN */
    const uint32_t *n_left_window, *n_kept;
    const uint64_t *visible_pairs;
    size_t cache_bytes_used, cache_bytes_allocated, cache_bytes_full;
    size_t pool_peak_bytes;         /* of the whole pool, so far */
    /* With attention statistics only, else NULL. */
    const double *far_sum, *sink_sum;   /* (n_layers, n_kv_heads) */
    const double *distance_sum;         /* (n_layers, n_kv_heads, n_distance_bins) */
    int n_distance_bins;
    /* With the oracle only, else NULL: session_future(). */
    const float *future_max, *future_mean; /* (n_layers, n_tok, n_kv_heads) */
};

struct observer {
    void *self;
    int (*on_gates)(void *self, const struct gate_report *report, struct err *err);
    int (*on_sequence)(void *self, const struct sequence_report *report, struct err *err); /* in order of index */
    int (*on_batch)(void *self, uint64_t batch, struct err *err); /* a whole batch of the plan is done */
    bool want_attention;  /* compute far, sink and distance sums */
    bool want_oracle;     /* compute what each token gets from queries outside its window */
};

#endif
