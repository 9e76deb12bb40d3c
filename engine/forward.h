/* forward.h - the forward pass of a model, written once for all families, backends, and for inference and training. */
#ifndef SPKV_ENGINE_FORWARD_H
#define SPKV_ENGINE_FORWARD_H

#include "engine/activations.h"
#include "engine/gate_network.h"
#include "engine/model.h"
#include "engine/policy.h"
#include "kernels/train_ops.h"

/* Where a step adds its attention statistics; device arrays, see struct attend_stats_args. */
struct step_stats {
    int window, sinks, n_bins;
    double *far_sum, *sink_sum;        /* (n_layers, n_seq, n_kv_heads); NULL = no sums by distance */
    double *distance_sum;              /* (n_layers, n_seq, n_kv_heads, n_bins) */
    const int32_t *bin_of_distance;
    float *future_max, *future_sum;    /* (n_layers, n_slots, max_len, n_kv_heads); NULL = no future attention */
    const float *output_gram;          /* (n_layers, n_heads, head_dim, head_dim); NULL = no value norms */
    float *value_norm;                 /* (n_layers, n_rows, n_kv_heads), packed to the step's n_rows */
};

/* Where a step adds what an eviction policy goes by; device arrays. */
struct step_eviction {
    float *column_sum;      /* (n_layers, n_slots, n_kv_heads, max_len), see struct attend_args; NULL = none */
    const int *column_from; /* (n_seq) host */
    double *query_sum;      /* (n_layers, n_slots, n_heads, head_dim * (head_dim + 1)), see struct query_sums_args; NULL */
    int skip;
};

/* How attention runs over whole sequences: ops->train->attend_seq in place of a cache. */
struct step_sequences {
    const int *window;   /* (n_layers, n_kv_heads) host; INT_MAX = sees all */
    bool gates;          /* pairs outside window and sinks have gates; false: they are closed */
    bool hard;           /* as in struct gate_log_args */
    float blend;
    bool imposed;        /* a->acting holds the gates, in place of the threshold's */
    bool sampled;        /* gates are drawn with probability utility, see ops->train->gate_sample */
    float sample_clip;
    uint64_t seed;
};

/* One step: the rows of `batch` through all layers; ids and positions lie in a->ids and a->pos. */
struct step {
    struct kv_batch batch;           /* whole sequences need row_splits and sequence_id only, random gates also pos0 */
    size_t n_rows;
    const struct policy *policy;
    float *const *rope;              /* host array of config->n_rope device tables */
    const struct gate_layer *gates;  /* (n_layers) of policy->gates on the device; SCORER_GATES only */
    const float *given;              /* (n_layers, n_slots, max_len, n_kv_heads) scores by position; SCORER_GIVEN only */
    const float *head_score;         /* (n_layers, n_kv_heads) device copy of the policy's constants */
    struct activations *a;
    struct kv_cache *cache;          /* one of the two: a cache that the rows continue, or ... */
    const struct step_sequences *sequences;
    const uint8_t *all_open;         /* cache: NULL = gates act; dense prefill: (n_rows, n_kv_heads) ones in their place */
    const struct step_stats *stats;  /* cache: NULL = none */
    const struct step_eviction *eviction; /* cache: NULL = none */
};

void model_forward(const struct model *model, const struct step *step);

/* For a backward pass. Layer l again, from its x and into its other buffers. */
void model_forward_layer(const struct model *model, const struct step *step, int l);
/* The arguments of ops->predict, of the model's predictor, and ops->train->attend_seq in layer l. */
struct predict_args model_predict_args(const struct model *model, const struct step *step, int l);
struct attend_seq_args model_attend_seq_args(const struct model *model, const struct step *step, int l);
/* ... of ops->train->low_rank for a projection whose update stands beside its weight, but for y. */
struct low_rank_args model_low_rank_args(const struct model *model, const struct step *step, const struct projection *p,
                                         const void *x, float *low);
/* What acts as gates in layer l: the threshold's, or sampled or imposed ones; (n_rows, n_kv_heads). */
uint8_t *model_acting_gates(const struct model *model, const struct step *step, int l);

/* Element i of a device array of f32 (or double on an F64 device). */
static inline float *real_at(const struct model *m, float *base, size_t i) {
    return (float *)(void *)((char *)base + i * real_size(m->ops, m->dev));
}

/* First item of layer l in a packed array of (n_layers, n_rows, n_kv_heads). */
static inline size_t gates_at(const struct model *m, const struct step *s, int l) {
    return (size_t)l * s->n_rows * (size_t)m->config->n_kv_heads;
}

#endif
