/* trainer.h - a training run: steps, evaluations, log and checkpoints, from its start or its last checkpoint to its end. It
 * prints nothing and reports to an observer. One run at a time on a model; not thread-safe. */
#ifndef SPKV_TRAIN_TRAINER_H
#define SPKV_TRAIN_TRAINER_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/checkpoint.h"
#include "engine/model.h"
#include "engine/policy.h"
#include "train/batches.h"
#include "train/log.h"
#include "train/pieces.h"
#include "train/schedule.h"

/* Called on the trainer's thread; arguments are borrowed for the call. A NULL callback is skipped. */
struct trainer_observer {
    void *self;
    void (*on_step)(void *self, const struct train_log_row *row);  /* every step, after its evaluation */
    void (*on_eval)(void *self, const struct train_log_row *row);  /* steps that were evaluated; 0 = the start */
    void (*on_save)(void *self, int64_t step);
};

/* Everything is borrowed until trainer_run() returns. */
struct trainer_options {
    const char *out_dir;
    struct checkpoint *source;       /* what the model was loaded from */
    struct model *model;
    const struct schedule *schedule; /* checked */
    const struct policy *policy;     /* of the schedule, resolved */
    const struct policy *full;       /* full attention, for evaluations */
    struct batches *data;            /* made for the schedule: see trainer_batches() */
    const struct pieces *eval;       /* held out; NULL = none */
    enum dtype dtype;                /* of the saved weights */
    const char *protocol, *version, *commit; /* see struct state_save */
    double gemm_tok_per_s;           /* what the machine's matrix products would allow, for the log; 0 = not measured */
    const volatile sig_atomic_t *stop; /* when set: finish the step, save, ERR_INCOMPLETE. NULL = never */
    const struct trainer_observer *observer;
};

/* Options of the data that a schedule wants. */
struct batches_options trainer_batches(const struct schedule *schedule, int vocab_size);

/* Runs to the end of the schedule: from OUT/checkpoint where there is one, else from the model as loaded, after an
 * evaluation of it. The log goes to OUT/log.csv and OUT/heads.csv (the latter at steps with an evaluation, or where one
 * would be: densities of the evaluation, or of the step's own tokens). *last is the row of the last step. ERR_INPUT when
 * the run diverges: a loss or gradient that is not finite, or a loss that stays above 3x its running mean; the message
 * names step, tensor and the last checkpoint, which stays as it is. */
int trainer_run(const struct trainer_options *options, struct train_log_row *last, struct err *err);

#endif
