/* train_case.h - a model of tests/data/models set up for training: parameters, gradients, and all its sequences as one
 * micro-batch. Helpers fail the running test when something goes wrong. */
#ifndef SPKV_TESTS_TRAIN_CASE_H
#define SPKV_TESTS_TRAIN_CASE_H

#include "tests/model_case.h"
#include "train/gradient.h"

struct train_case {
    struct model_case model_case;
    const struct ops *ops;
    struct device *dev;
    struct model *model;
    struct params *params;
    struct policy *policy;
    struct gradient *gradient;
    struct micro_batch batch;
    int splits[CASE_MAX_SEQUENCES + 1];
    int32_t ids[CASE_MAX_TOKENS], target[CASE_MAX_TOKENS]; /* the next token; none for every seventh row and at the end */
    uint64_t sequence_id[CASE_MAX_SEQUENCES];
};

struct train_options {
    const struct ops *ops;
    enum dtype dtype;
    enum trained what;
    bool recompute;
    const char *policy; /* of the case; NULL: no gradient yet */
};

void train_case_open(const char *name, const struct train_options *options, struct train_case *out);
void train_case_close(struct train_case *t);

/* Another policy in place of the present one. */
void train_case_use(struct train_case *t, const char *policy, bool recompute);

/* gradient_add() after params_zero_grad(), one loss for every row. */
struct gradient_result train_case_add(struct train_case *t, const struct gates *gates);

/* Items of a parameter's array (master, grad) in doubles; calloc'd. */
double *train_case_read(const struct train_case *t, const float *array, size_t n);
void train_case_write(const struct train_case *t, struct param *param, const double *values);

#endif
