/* train_options.h - the command line of spkv train. */
#ifndef SPKV_CLI_TRAIN_OPTIONS_H
#define SPKV_CLI_TRAIN_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "train/schedule.h"

enum { TRAIN_MAX_CORPORA = 4096, TRAIN_MAX_SETTINGS = 256 };

/* What to start from. */
enum protocol { PROTOCOL_NONE, PROTOCOL_PRETRAIN, PROTOCOL_ADAPT, PROTOCOL_RESUME };
const char *protocol_name(enum protocol protocol);

/* Strings are borrowed from argv. */
struct train_options {
    enum protocol protocol;
    const char *model;         /* config.json or directory; NULL for resume */
    const char *output;        /* OUT */
    char *corpora[TRAIN_MAX_CORPORA], *eval[TRAIN_MAX_CORPORA];
    size_t n_corpora, n_eval;
    int64_t eval_sequences;    /* at most; 0 = all */
    const char *schedule_file; /* NULL = defaults */
    struct {
        const char *key, *value;
    } settings[TRAIN_MAX_SETTINGS]; /* over the file, in order */
    size_t n_settings;
    int64_t batch_tok;         /* 0 = not given */
    const char *tokenizer, *field, *dtype, *compute, *backend;
    int threads;               /* 0 = all, or those of the run that is resumed */
    bool split_blank, new_predictor, force, quiet, json;
};

/* Parses argv; does not return on usage errors (exit status 2). */
void train_options_parse(int argc, char **argv, struct train_options *out);

/* Defaults, the file, the settings, checked together. The path of a layout is made absolute. */
int train_options_schedule(const struct train_options *options, struct schedule *out, struct err *err);

/* The file that the schedule may have its policy from; NULL: the command line gives it, or nothing does. Borrowed. */
const char *train_options_policy_file(const struct train_options *options);

#endif
