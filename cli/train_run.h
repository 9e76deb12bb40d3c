/* train_run.h - OUT/run.json: everything about a training run that is not its schedule, so that resume needs OUT alone.
 *
 *   {"schema": "spkv-train", "version": 1, "protocol": "adapt", "model": "/path",
 *    "corpora": [{"path": "/path", "weight": 2}, ...], "eval": ["/path"], ...}
 *
 * A new run goes through the same object, so that both open the same things. */
#ifndef SPKV_CLI_TRAIN_RUN_H
#define SPKV_CLI_TRAIN_RUN_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "cli/train_options.h"

struct train_run {
    json_t *object;        /* owned; strings and arrays below are borrowed from it */
    const char *protocol;  /* "pretrain" or "adapt" */
    const char *model;     /* absolute, as all paths */
    const char *tokenizer; /* NULL: the model's */
    const char *dtype, *compute, *backend, *field;
    json_t *corpora, *eval;
    int64_t eval_sequences, threads;
    bool split_blank, new_predictor;
};

/* From the command line: paths are made absolute, weights split off. ERR_IO for what is not there. */
int train_run_make(const struct train_options *options, const char *command, struct train_run *out, struct err *err);

/* From OUT/run.json. ERR_INPUT when there is no run. */
int train_run_read(const char *out_dir, struct train_run *out, struct err *err);
int train_run_write(const struct train_run *run, const char *out_dir, struct err *err);
void train_run_free(struct train_run *run); /* legal on a zeroed struct */

#endif
