/* schedule.h - everything that defines the optimisation of a training run, as one flat JSON object:
 *
 *   {"steps": 2000, "sequences": 16, "context_len": 1024, "learning_rate": 0.0002, "density_weight": 0.03}
 *
 * Keys are the names of the fields below; absent ones keep their defaults (method.md section 6). A schedule is read, changed
 * key by key from the command line, checked as a whole, and written with all keys beside the result: reading that again
 * gives the same schedule. Plain values, no ownership, any thread. */
#ifndef SPKV_TRAIN_SCHEDULE_H
#define SPKV_TRAIN_SCHEDULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "kernels/ops.h"
#include "train/gradient.h"
#include "train/params.h"

enum predictor_kind {
    PREDICTOR_TRUNK,        /* "trunk" */
    PREDICTOR_LINEAR,       /* "linear": no hidden layer */
    PREDICTOR_STATIC,       /* "static": one scalar per KV head */
    PREDICTOR_STATIC_LAYER, /* "static-layer": one scalar per layer, the same for its KV heads: the gradients of fc2.bias are
                               averaged over them before every update */
};

/* What is learned. */
enum target {
    TARGET_LOSS,   /* "loss": the next token, through gates that act */
    TARGET_ORACLE, /* "oracle": under full attention, the logarithm of the largest attention that a pair gets from queries
                      outside its window (method.md section 11), by regression: a predictor fitted to a frozen model */
};

enum lora_targets {
    LORA_ATTENTION, /* "attention": q, k, v, o */
    LORA_ALL,       /* "all": gate, up, down too */
};

struct schedule {
    /* how long, and what a step is */
    int64_t steps;          /* required */
    int sequences;          /* of a step; 8 */
    int accumulation;       /* micro-batches that a step's sequences are divided into, equally; 1 */
    int context_len;        /* tokens of a sequence; 1024 */
    bool answer_only;       /* of a prompt and its answer only the answer counts; false */
    uint64_t seed;          /* 0: start, order of the data, sampled gates */
    enum trained trained;   /* "all", "predictor", "lora"; all */
    enum target target;     /* "loss" (default), "oracle" */
    char policy[1024];      /* the attention, as --policy takes it: "spkv" (default), "full", "window", "layout:file=..." */

    /* low-rank updates, with trained "lora" only */
    int lora_r;             /* rank; 0 = none */
    double lora_alpha;      /* 0 = 2 lora_r: updates are scaled by lora_alpha / lora_r */
    enum lora_targets lora_targets; /* "attention" (default), "all" */

    /* AdamW of the model, or of its low-rank updates */
    double learning_rate;   /* 2e-4, the peak */
    int64_t warmup_steps;   /* 0: linear from 0 */
    double final_lr_frac;   /* 0.1: the cosine ends at this share of the peak */
    double beta1, beta2, epsilon; /* 0.9, 0.95, 1e-8 */
    double weight_decay;    /* 0.1 */
    double clip_norm;       /* 1; 0 = no clipping */

    /* predictor */
    enum predictor_kind predictor_kind;
    int predictor_hidden;       /* 0 = max(16, d_model / 4) */
    enum act predictor_activation; /* "silu", "gelu"; a linear or static predictor has none, whatever stands here */
    double predictor_lr_factor; /* 5, of the model's rate */
    double predictor_weight_decay; /* 0.1 */
    double start_bias;          /* 5 */
    int window;                 /* 128 */
    double threshold;           /* 0.5 */

    /* gates */
    enum gate_mode gates;   /* of phase 1: "soft" (default) or "sampled" */
    double sample_clip;     /* 0.05: sampled with probabilities in [clip, 1 - clip] */
    double soft_frac;       /* 0.75: phase 1 lasts warmup_steps and this share of the cosine */
    int64_t anneal_steps;   /* 0 = min(500, a third of phase 2) */
    double density_weight;  /* 0; positive is sparser */
    int64_t density_ramp_steps; /* 0; the weight rises linearly over them */
    double target_density;  /* 0 = none; else the weight follows the measured hard density, see density_control */

    /* the run */
    int64_t eval_every;     /* 100; 0 = at the end only */
    int64_t save_every;     /* 500; 0 = at the end only */
    bool recompute;         /* false */
};

struct schedule schedule_default(void);
/* The same where a predictor is fitted to the oracle: the model frozen, start_bias -4 and threshold 0.05, since utilities
 * are then shares of attention. */
struct schedule schedule_default_oracle(void);

/* The keys in canonical order, for command lines and help. */
struct schedule_key {
    const char *name; /* "learning_rate" */
    const char *help; /* a phrase with the default */
    bool flag;        /* takes true or false */
};
size_t schedule_n_keys(void);
const struct schedule_key *schedule_key(size_t i);

/* Changes what the file or the text names, over what is there. ERR_INPUT names file, key, value and remedy: unknown keys,
 * wrong types, values out of range. On failure *s is undefined. */
int schedule_read(const char *path, struct schedule *s, struct err *err);
int schedule_parse(const char *text, size_t n, const char *where, struct schedule *s, struct err *err);

/* One key from the command line; '-' in it counts as '_'. ERR_USAGE, otherwise as schedule_read. */
int schedule_set(struct schedule *s, const char *key, const char *value, struct err *err);

/* Values that contradict each other: ERR_INPUT at `where` (a file, or "" for the command line) with the remedy. Every other
 * function below demands a schedule that passed. Under another policy than spkv the keys of predictor and gates have no
 * effect, but for `window`, which is the policy's too: a dense twin is the same file with another policy (with trained "lora" its
 * low-rank updates alone). */
int schedule_check(const struct schedule *s, const char *where, struct err *err);

/* Canonical JSON: all keys in order, one a line, shortest decimal that reads back to the same value. */
void schedule_format(const struct schedule *s, struct str *out);
int schedule_write(const struct schedule *s, const char *path, struct err *err);

/* The value of a key as it stands in the file: "0.0002", "\"soft\"". */
void schedule_format_value(const struct schedule *s, const char *key, struct str *out);

/* The first key that differs, NULL when none does. Keys that do not change what is computed (eval_every, save_every,
 * recompute) count only when `all`. */
const char *schedule_difference(const struct schedule *a, const struct schedule *b, bool all);

double schedule_lora_alpha(const struct schedule *s);   /* effective */
bool schedule_gated(const struct schedule *s);          /* the policy is spkv: gates of a predictor act */
uint64_t schedule_step_tok(const struct schedule *s);   /* tokens a step at most: sequences * context_len */
int64_t schedule_soft_steps(const struct schedule *s);  /* of phase 1; all when only the predictor is trained */
int64_t schedule_anneal_steps(const struct schedule *s); /* effective */

/* What holds in one step, counted from 1 to steps. */
struct schedule_point {
    double lr_model, lr_predictor;
    enum gate_mode mode;     /* phase 1: soft or sampled. Phase 2: annealed, then hard; after sampled gates hard at once */
    double blend;            /* annealed: i / anneal_steps in its i-th step. 1 when hard, else 0 */
    double density_weight;   /* density_weight * ramp; 0 when nothing reaches the predictor */
    bool freeze_predictor;   /* phase 2, and when no gates act */
};

/* Rate: learning_rate * step / warmup_steps during the warm-up, then the half cosine that reaches final_lr_frac in the last
 * step. A pure function. */
struct schedule_point schedule_at(const struct schedule *s, int64_t step);

/* Feedback of the hard long-range density on the density term, part of a run's saved state. The weight of a step is
 * point.density_weight * factor; the factor is 1 for ever without target_density. The goal falls from 1 in the first step to
 * target_density in the middle of phase 1, so that gates close one after the other, and not all at once as soon as the
 * first ones give way. With e = density - goal and n the steps of phase 1,
 *     factor = exp(16 e + 80 / n * sum of e),   each e in the sum within +-0.1, factor within 1/100 to 100.
 * The gains are from a simulation of gates under AdamW: see tests/test_schedule.c. */
struct density_control {
    double factor;
    double sum;      /* of e */
    int64_t n_steps; /* seen */
};
struct density_control density_control_start(void);

/* After a step of phase 1 with `density`, the share of pairs beyond the window whose gate was open by the threshold (NaN:
 * none was beyond it, the factor stays). A pure function. */
struct density_control density_control_next(const struct schedule *s, struct density_control control, double density);

#endif
