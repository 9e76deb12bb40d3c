/* gradient.h - losses and gradients of micro-batches: the training forward pass (engine/forward.c over packed sequences with
 * its activations kept) and its backward pass. Next-token cross-entropy, plus density_weight * mean(u) where gates are
 * trained. Not thread-safe. Free it before its params. */
#ifndef SPKV_TRAIN_GRADIENT_H
#define SPKV_TRAIN_GRADIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/policy.h"
#include "train/params.h"

struct gradient;

struct gradient_options {
    size_t max_rows;             /* tokens of a micro-batch */
    int max_len;                 /* tokens of a sequence */
    bool recompute;              /* keep the input of every layer only and run the layer again in the backward pass */
    const struct policy *policy; /* the attention: borrowed. SCORER_PREDICTOR: gates as struct gates says. Otherwise fixed
                                    (full, window, layout, random): a closed gate is a hard gate */
};

int gradient_create(struct params *params, const struct gradient_options *options, struct gradient **out, struct err *err);
void gradient_free(struct gradient *g);

enum gate_mode {
    GATES_SOFT,     /* log(u + 1e-8) */
    GATES_ANNEALED, /* log((1 - blend) u + blend z + 1e-8) */
    GATES_HARD,     /* 0 or -inf; nothing reaches the predictor */
    GATES_SAMPLED,  /* log(z + 1e-8), z Bernoulli(u), straight-through gradient */
};

/* How the gates of a predictor act in one micro-batch. */
struct gates {
    enum gate_mode mode;
    double blend;          /* annealed */
    double sample_clip;    /* sampled: probabilities stay in [clip, 1 - clip] */
    uint64_t seed;         /* sampled: keyed by it and sequence_id */
    double density_weight; /* of mean(u) over all gates; only while gradients reach the predictor */
    bool freeze_predictor; /* no gradient to the utilities (phase 2) */
};

struct micro_batch {
    int n_seq;
    const int *row_splits;       /* (n_seq + 1) host */
    const int32_t *ids;          /* (n_rows) host */
    const int32_t *target;       /* (n_rows) host: the next token, -1 = no loss */
    const uint64_t *sequence_id; /* (n_seq) host */
    const uint8_t *imposed_open; /* NULL, or (n_layers, n_rows, n_kv_heads) host: z of annealed and hard gates, in place of
                                    the threshold's (comparisons with a reference) */
};

/* Of one micro-batch. Arrays are borrowed until the next call; they are of (n_layers, n_kv_heads), all zero without
 * predictor gates. */
struct gradient_result {
    double nll_sum;
    uint64_t n_predicted, n_rows;
    const double *utility_sum;
    const uint64_t *n_open;        /* u against the threshold */
    const uint64_t *n_left, *n_far; /* pairs that left the window by the end of their sequence; those of them open */
};

/* Adds the gradients of loss_scale * sum of losses (+ the density term, times density_share: the part of the step's gates
 * that this micro-batch has) to the parameters. Waits for the device. ERR_INPUT when the loss is not finite. */
int gradient_add(struct gradient *g, const struct micro_batch *batch, const struct gates *gates, double loss_scale,
                 double density_share, struct gradient_result *result, struct err *err);

/* Fits the predictor to targets under full attention, the model frozen: adds the gradients of error_scale * sum of
 * (log(u + 1e-8) - log_target)^2 to the parameters. log_target (n_layers, n_rows, n_kv_heads) host, NaN = none (and in the
 * model's own sliding layers). Of the result nll_sum is the sum of squared errors and n_predicted the number of targets;
 * without options.recompute. Waits for the device. ERR_INPUT as gradient_add. */
int gradient_fit(struct gradient *g, const struct micro_batch *batch, const float *log_target, double error_scale,
                 struct gradient_result *result, struct err *err);

/* Forward only: losses (n_rows) host f32, NaN without target, and utilities (n_layers, n_rows, n_kv_heads) host f32 or
 * NULL; for tests. */
int gradient_forward(struct gradient *g, const struct micro_batch *batch, const struct gates *gates, float *nll,
                     float *utility, struct err *err);

#endif
