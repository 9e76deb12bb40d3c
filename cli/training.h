/* training.h - a training run from its options to its last checkpoint: what it starts from, its data, and where it goes. For
 * spkv train, and for spkv verify, which trains candidates in the same way. One thread. */
#ifndef SPKV_CLI_TRAINING_H
#define SPKV_CLI_TRAINING_H

#include <stdbool.h>

#include "cli/run_options.h"
#include "cli/train_options.h"
#include "cli/train_run.h"
#include "train/batches.h"
#include "train/log.h"
#include "train/pieces.h"

/* An opened run. */
struct training {
    struct train_run run;
    struct schedule schedule;
    char *policy_file;       /* where the schedule's policy comes from; NULL: the command line */
    int lock;                /* on OUT/run.json, -1 = none yet */
    char *start_dir;         /* OUT/start.tmp: what the run begins with and no other file holds, while it is open */
    struct loaded loaded;
    struct policy *full;
    struct batches *data;
    struct pieces *eval;
};

static inline struct training training_none(void) {
    return (struct training){.lock = -1};
}

/* A new run in options->output, begun: what is read was found good, and an older run is gone. A run that never began leaves
 * nothing where nothing was. Close it whatever happens. */
int training_new(struct training *t, const struct train_options *options, const char *command, struct err *err);

/* The run that is in out_dir. threads: 0 = as it began. */
int training_again(struct training *t, const char *out_dir, int threads, bool quiet, struct err *err);

/* Runs to the end of the schedule. last->step is 0 when nothing was left to do. */
int training_run(struct training *t, const char *out_dir, bool quiet, struct train_log_row *last, double *seconds,
                 struct err *err);

void training_close(struct training *t); /* legal on training_none() */

#endif
