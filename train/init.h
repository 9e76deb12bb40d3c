/* init.h - where a training run starts: random weights, a predictor whose gates are open, low-rank updates that change
 * nothing yet. Written as files, so that the trainer opens every start in the same way, with checkpoint_open() and
 * model_load(). */
#ifndef SPKV_TRAIN_INIT_H
#define SPKV_TRAIN_INIT_H

#include <stdint.h>

#include "base/err.h"
#include "engine/config.h"
#include "train/schedule.h"

/* Writes a Hugging Face directory (config.json without "spkv", model.safetensors in f32) with random weights for the model
 * of the file `config`: matrices N(0, initializer_range), norms 1 (0 where the norm is 1 + weight), biases 0. A value is a
 * pure function of the seed, its tensor's name and its place in it. tokenizer.json and generation_config.json are copied
 * from `tokenizer_dir` where they exist (NULL: the directory of `config`). ERR_INPUT for what engine/config.h refuses. */
int init_model(const char *config, const char *tokenizer_dir, uint64_t seed, const char *dir, struct err *err);

/* Writes spkv_config.json and spkv.safetensors into `dir` (made when absent; init_model's directory is as good as one of
 * its own): when gates act, for every layer without a sliding window of its own a predictor as the schedule says, fc1
 * N(0, 1 / sqrt(d_model)), fc2 N(0, 0.1 / sqrt(inputs)), b1 0, b2 start_bias; when low-rank updates are trained, those of
 * its lora_targets, A N(0, 1 / sqrt(n_in)) and B 0. */
int init_added(const struct model_config *config, const struct schedule *schedule, const char *dir, struct err *err);

#endif
