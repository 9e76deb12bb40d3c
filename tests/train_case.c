#include "tests/must.h"
#include "tests/train_case.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/train_ops.h"
#include "tests/op_util.h"

static void fill_batch(struct train_case *t) {
    int n = 0;
    for (int i = 0; i < t->model_case.n_sequences; i++) {
        const struct case_sequence *s = &t->model_case.sequences[i];
        assert_true(n + s->n_tok <= CASE_MAX_TOKENS);
        for (int j = 0; j < s->n_tok; j++, n++) {
            t->ids[n] = s->tokens[j];
            t->target[n] = j + 1 < s->n_tok && j % 7 != 3 ? s->tokens[j + 1] : -1;
        }
        t->splits[i + 1] = n;
        t->sequence_id[i] = (uint64_t)i;
    }
    t->batch = (struct micro_batch){.n_seq = t->model_case.n_sequences, .row_splits = t->splits, .ids = t->ids,
                                    .target = t->target, .sequence_id = t->sequence_id};
}

void train_case_open(const char *name, const struct train_options *options, struct train_case *t) {
    struct err err = {0};
    memset(t, 0, sizeof *t);
    model_case_open(name, &t->model_case);
    t->ops = options->ops;
    must(t->ops->open(&(struct device_options){.n_threads = 2, .dtype = options->dtype}, &t->dev, &err), &err);
    int (*load)(const struct checkpoint *, const struct ops *, struct device *, struct model **, struct err *) =
        options->what == TRAIN_LORA ? model_load_unmerged : model_load;
    must(load(t->model_case.checkpoint, t->ops, t->dev, &t->model, &err), &err);
    must(params_create(t->model, options->what, &t->params, &err), &err);
    fill_batch(t);
    if (options->policy)
        train_case_use(t, options->policy, options->recompute);
}

void train_case_use(struct train_case *t, const char *policy, bool recompute) {
    struct err err = {0};
    gradient_free(t->gradient);
    policy_free(t->policy);
    t->policy = model_case_policy(&t->model_case, policy);
    const struct gradient_options options = {
        .max_rows = (size_t)t->splits[t->batch.n_seq] + 5, .max_len = CASE_MAX_TOKENS / 4, .recompute = recompute,
        .policy = t->policy};
    must(gradient_create(t->params, &options, &t->gradient, &err), &err);
}

void train_case_close(struct train_case *t) {
    gradient_free(t->gradient);
    policy_free(t->policy);
    params_free(t->params);
    model_free(t->model);
    t->ops->close(t->dev);
    model_case_close(&t->model_case);
}

struct gradient_result train_case_add(struct train_case *t, const struct gates *gates) {
    struct gradient_result result;
    struct err err = {0};
    params_zero_grad(t->params);
    must(gradient_add(t->gradient, &t->batch, gates, 1, 1, &result, &err), &err);
    return result;
}

double *train_case_read(const struct train_case *t, const float *array, size_t n) {
    size_t size = real_size(t->ops, t->dev);
    struct err err = {0};
    double *out = zalloc(n, sizeof *out);
    void *reals = zalloc(n, size);
    t->ops->download(t->dev, reals, array, n * size);
    must(t->ops->sync(t->dev, &err), &err);
    for (size_t i = 0; i < n; i++)
        out[i] = dtype_load(reals, size == 8 ? DTYPE_F64 : DTYPE_F32, i);
    free(reals);
    return out;
}

void train_case_write(const struct train_case *t, struct param *param, const double *values) {
    enum dtype dtype = real_size(t->ops, t->dev) == 8 ? DTYPE_F64 : DTYPE_F32;
    void *reals = zalloc(param->n, dtype_size(dtype));
    for (size_t i = 0; i < param->n; i++)
        dtype_store(reals, dtype, i, values[i]);
    t->ops->upload(t->dev, param->master, reals, param->n * dtype_size(dtype));
    if (param->weight)
        t->ops->train->weight_refresh(t->dev, param->weight);
    free(reals);
}
