/* evaluate.h - losses and densities of the model in training on held-out text, through the sessions that inference uses. */
#ifndef SPKV_TRAIN_EVALUATE_H
#define SPKV_TRAIN_EVALUATE_H

#include "engine/policy.h"
#include "train/trainer.h"

struct evaluation {
    double nll;                /* nat per predicted token; NaN when there was none */
    double gate_density;       /* NaN without gates */
    double long_range_density;
};

/* Runs the held-out text from its beginning under a policy. */
int evaluate_run(const struct model *model, const struct policy *policy, const struct held_out *held_out, int context_len,
                 struct evaluation *out, struct err *err);

#endif
