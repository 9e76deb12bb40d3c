/* trainer.h - a training run: steps of a schedule over training data, evaluation on held-out text, log and saved states.
 * Prints nothing: an observer hears of every step. One thread. */
#ifndef SPKV_TRAIN_TRAINER_H
#define SPKV_TRAIN_TRAINER_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/policy.h"
#include "engine/source.h"
#include "train/batches.h"
#include "train/log.h"
#include "train/state.h"

/* Held-out text that can be run again and again. */
struct held_out {
    void *self;
    /* A source from its beginning; valid until the next call of open() or close(). */
    int (*open)(void *self, struct source *out, struct err *err);
    void (*close)(void *self);
};

struct trainer_options {
    struct params *params;           /* borrowed like everything below */
    struct checkpoint *source;       /* what the run started from */
    const struct schedule *schedule;
    struct batches *batches;
    const struct policy *policy;     /* the attention of training, as the schedule names it */
    const struct policy *hard, *full; /* of evaluation: gates by the threshold (NULL: none), the model's own pattern */
    const struct held_out *held_out; /* NULL = no evaluation */
    const char *out_dir, *protocol, *version, *commit;
    enum dtype save_dtype;
    bool resume;                     /* go on from the state in out_dir */
    const volatile sig_atomic_t *stop; /* when set: save and return ERR_INCOMPLETE; NULL = never */
    void *self;                      /* of the observer */
    void (*on_step)(void *self, const struct train_log_row *row); /* NULL = nobody listens */
};

/* Where a finished run stands. */
struct trainer_result {
    struct train_log_row last;       /* of the last step */
    int64_t n_steps;                 /* of this process */
    uint64_t n_tok;
    double seconds;
};

/* Runs the schedule to its end. ERR_INPUT when the loss or a gradient is not finite, or the loss stays above three times its
 * running mean: names step and tensor, and what is saved stays. ERR_INCOMPLETE after a stop. */
int trainer_run(const struct trainer_options *options, struct trainer_result *result, struct err *err);

#endif
