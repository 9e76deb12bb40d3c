/* session_internal.h - a session from inside, for session.c and session_future.c alone. */
#ifndef SPKV_ENGINE_SESSION_INTERNAL_H
#define SPKV_ENGINE_SESSION_INTERNAL_H

#include "engine/eviction.h"
#include "engine/forward.h"
#include "engine/session.h"

/* The step that was fed last; host arrays of n_slots (+ 1). */
struct last_step {
    int n_seq;
    size_t n_rows;
    int *slots, *row_splits, *pos0;
    uint64_t *sequence_id;
};

struct session {
    const struct model *model;
    struct session_options options;
    struct kv_cache *cache;
    struct eviction *eviction; /* NULL when the policy does not evict */
    struct activations a;
    struct last_step last;
    float *rope[2];           /* device */
    float *head_score;        /* device (n_layers, n_kv_heads) */
    struct gate_layer *gates; /* (n_layers) of the policy; NULL = it has none */
    uint64_t *sequence_id;    /* (n_slots) */
    int *length;              /* (n_slots) tokens fed */
    bool *dense;              /* (n_slots) in a dense prefill */
    uint8_t *all_open;        /* device (max_rows, n_kv_heads) ones; dense prefill only, as is */
    uint8_t *gate_history;    /* device (n_slots, n_layers, max_len, n_kv_heads) */
    int32_t *ids, *pos;       /* host staging (max_rows) */
    int32_t *target;          /* device (max_rows) */
    float *nll;               /* device (max_rows) */
    uint8_t *is_argmax;       /* device (max_rows) */
    float *logits;            /* device (n_slots, vocab_size), made on first use */
    void *last_rows;          /* device (n_slots, d_model) act, the same */
    int32_t *sampled;         /* device (n_slots) */
    float *host_logits;       /* (n_slots, vocab_size) */
    float *host_utility;      /* (n_layers, max_rows, n_kv_heads) */
    uint8_t *host_open;
    void *staging;            /* host, reals as the device has them */
    size_t staging_bytes;
    /* Attention statistics: device sums of the last step, host sums per slot. */
    struct step_stats stats;
    int32_t *bin_of_distance;
    double *step_sums;        /* device: far, sink, distance after one another */
    double *host_sums;        /* staging of the same */
    double *far_sum, *sink_sum, *distance_sum; /* (n_slots, n_layers, n_kv_heads[, n_bins]) */
    bool stats_pending;
    float *host_future_max, *host_future_mean; /* (n_layers, max_len, n_kv_heads) */
    float *output_gram;       /* device, see struct step_stats */
    float *step_norms;        /* device (n_layers, max_rows, n_kv_heads) of the last step */
    float *value_norm;        /* device (n_layers, n_slots, max_len, n_kv_heads) */
    float *host_norm;         /* (n_layers, max_len, n_kv_heads) */
    float *given;             /* device (n_layers, n_slots, max_len, n_kv_heads): scores that were there before */
};

/* Nothing and NULL where *rc is not OK; a failure sets it. */
void *session_device_array(struct session *s, size_t count, size_t size, int *rc);
void *session_host_array(size_t count, size_t size, int *rc, struct err *err);

/* Downloads n reals as f32; valid on return (waits). */
int session_download(struct session *s, float *out, const float *from, size_t n, struct err *err);

/* What the options ask for of future attention, value norms and scores given ahead; freed with the session. */
int session_create_future(struct session *s, struct err *err);
void session_clear_future(struct session *s, int slot);
/* Keeps the value norms of a step by position. */
void session_note_norms(struct session *s);

#endif
