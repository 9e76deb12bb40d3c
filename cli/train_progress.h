/* train_progress.h - how a training run goes, on stderr: one changing line on a terminal, a line every five seconds
 * elsewhere, a line for every evaluation. One thread. */
#ifndef SPKV_CLI_TRAIN_PROGRESS_H
#define SPKV_CLI_TRAIN_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/config.h"
#include "train/trainer.h"

struct train_progress {
    bool quiet, terminal;
    int64_t n_steps, n_done;       /* of the schedule; seen by this process */
    double gemm_tok_per_s;         /* what the products would allow; 0 = not measured */
    uint64_t start_us, last_us, n_tok_start, n_tok;
    struct trainer_observer observer;
};

/* Floating-point operations of the products, forward and backward. */
double train_flop_per_tok(const struct schedule *schedule, const struct model_config *config);

/* Fills p->observer, which borrows p. */
void train_progress_begin(struct train_progress *p, const struct schedule *schedule, double gemm_tok_per_s, bool quiet);
void train_progress_end(struct train_progress *p); /* removes the line from the terminal */

#endif
