/* train_data.h - reads the corpora of a training run. */
#ifndef SPKV_CLI_TRAIN_DATA_H
#define SPKV_CLI_TRAIN_DATA_H

#include "cli/train_run.h"
#include "engine/tokenizer.h"
#include "train/batches.h"
#include "train/pieces.h"

/* The training data: with a weight anywhere every corpus is drawn from by its weight (1 where none is given), else all are
 * one. */
int train_data_read(const struct train_run *run, const struct schedule *schedule, const struct tokenizer *tokenizer,
                    int vocab_size, struct batches **out, struct err *err);

/* The held-out text; NULL when there is none. */
int train_data_read_eval(const struct train_run *run, const struct schedule *schedule, const struct tokenizer *tokenizer,
                         int vocab_size, struct pieces **out, struct err *err);

#endif
