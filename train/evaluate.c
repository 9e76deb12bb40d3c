#include "train/evaluate.h"

#include <math.h>

#include "engine/run.h"

enum { EVAL_BATCH = 4, EVAL_CHUNK = 512 };

struct counts {
    const struct model *model;
    uint64_t n_scored, n_open, n_left, n_kept;
};

static int count_gates(void *self, const struct gate_report *g, struct err *err) {
    struct counts *c = self;
    (void)err;
    for (int l = 0; g->open && l < g->n_layers; l++) {
        const uint8_t *open = g->open + (size_t)l * g->layer_stride;
        size_t n = g->gated[l] ? g->n * (size_t)g->n_kv_heads : 0;
        c->n_scored += n;
        for (size_t i = 0; i < n; i++)
            c->n_open += open[i];
    }
    return OK;
}

static int count_sequence(void *self, const struct sequence_report *s, struct err *err) {
    struct counts *c = self;
    const struct model_config *config = c->model->config;
    (void)err;
    for (size_t i = 0; i < (size_t)config->n_layers * (size_t)config->n_kv_heads; i++) {
        bool sliding = config->layers[i / (size_t)config->n_kv_heads].sliding_window > 0;
        c->n_left += sliding ? 0 : s->n_left_window[i];
        c->n_kept += sliding ? 0 : s->n_kept[i];
    }
    return OK;
}

static double ratio(double a, double b) {
    return b > 0 ? a / b : (double)NAN;
}

int evaluate_run(const struct model *model, const struct policy *policy, const struct held_out *held_out, int context_len,
                 struct evaluation *out, struct err *err) {
    struct counts counts = {.model = model};
    struct observer observer = {.self = &counts, .on_gates = policy->gated ? count_gates : NULL,
                                .on_sequence = count_sequence};
    struct run_options options = {.policy = policy, .batch = EVAL_BATCH, .chunk = EVAL_CHUNK, .max_len = context_len,
                                  .n_shards = 1};
    struct run_totals totals = {0};
    struct source source;
    int rc = held_out->open(held_out->self, &source, err);
    if (rc == OK)
        rc = run_source(model, &source, &observer, &options, &totals, err);
    held_out->close(held_out->self);
    *out = (struct evaluation){.nll = ratio(totals.nll_sum, (double)totals.n_predicted),
                               .gate_density = ratio((double)counts.n_open, (double)counts.n_scored),
                               .long_range_density = ratio((double)counts.n_kept, (double)counts.n_left)};
    return rc;
}
