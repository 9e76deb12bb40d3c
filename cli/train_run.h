/* train_run.h - what a training run was started with, beside its schedule: OUT/run.json, so that a resumed run needs no
 * arguments.
 *
 *   {"format": "spkv-train", "version": 1, "protocol": "adapt", "model": "/models/small", "dtype": "bf16",
 *    "corpora": [{"path": "/text/novels", "share": 0.5}], "held_out": ["/text/valid.txt"], "eval_limit": 32,
 *    "split_blank": false, "field": null}
 *
 * Paths are absolute. A run that starts from random weights has them in OUT/start, and that is its model; so is the
 * directory of an initial predictor. */
#ifndef SPKV_CLI_TRAIN_RUN_H
#define SPKV_CLI_TRAIN_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { MAX_TRAIN_CORPORA = 64 };

struct train_corpus {
    char *path; /* owned */
    double share;
};

struct train_run {
    char protocol[16];       /* "pretrain", "adapt" */
    char *model;             /* owned */
    char *predictor;         /* owned: directory of the initial predictor, NULL = among the model's or none */
    char dtype[8];           /* of the saved model: "f32", "bf16" */
    struct train_corpus corpora[MAX_TRAIN_CORPORA];
    size_t n_corpora;
    char *held_out[MAX_TRAIN_CORPORA]; /* owned */
    size_t n_held_out;
    uint64_t eval_limit;     /* sequences of an evaluation */
    bool split_blank;
    char *field;             /* owned, NULL = found */
};

int train_run_read(const char *out_dir, struct train_run *out, struct err *err);
int train_run_write(const struct train_run *run, const char *out_dir, struct err *err);
void train_run_free(struct train_run *run); /* legal on a zeroed struct */

#endif
