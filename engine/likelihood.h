/* likelihood.h - how likely continuations are behind their contexts, under any policy. Knows tokens, not texts;
 * continuation.h makes the tokens. One thread. Free a scoring before its model and its policy.
 *
 * A request is scored as the lm-evaluation-harness scores it: all tokens but the last are fed, and every token of the
 * continuation is predicted by the row before it. Requests of one group have a beginning in common (a question and its
 * choices); it is fed once, in steps of `chunk`, and the slot that holds it is forked. Steps of what follows begin anew
 * there, so that the result does not depend on what else is in the batch. With dense_prefill gates act from the end of the
 * context on: it is read densely, its continuation sees the pruned cache; requests whose contexts differ are fed alone. */
#ifndef SPKV_ENGINE_LIKELIHOOD_H
#define SPKV_ENGINE_LIKELIHOOD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/model.h"
#include "engine/policy.h"

struct score_request {
    const int32_t *tokens;   /* (n_tok) context, then continuation; borrowed for the call */
    size_t n_tok, n_context; /* 1 <= n_context < n_tok; n_tok - 1 is at most the model's limit */
};

struct score_group {
    const struct score_request *requests; /* (n) */
    size_t n;
    uint64_t id; /* keys random gates */
};

struct score {
    double log_likelihood;     /* nat, the sum over the continuation */
    bool is_greedy;            /* every token of it was the most likely one */
    size_t n_scored, n_far;    /* tokens of it; those whose query had a pair outside window and sinks */
    uint64_t n_kept, n_left_window, visible_pairs, causal_pairs; /* over KV heads, model's own sliding layers left out */
};

struct scoring_options {
    const struct policy *policy; /* borrowed */
    size_t batch;                /* groups that are fed together */
    size_t chunk;                /* most tokens of a sequence in one step */
    bool dense_prefill;
};

struct scoring;

int scoring_create(const struct model *model, const struct scoring_options *options, struct scoring **out, struct err *err);
void scoring_free(struct scoring *scoring); /* NULL is fine */

/* Scores of all requests of all groups, in their order. ERR_INPUT when a score is not finite. */
int scoring_run(struct scoring *scoring, const struct score_group *groups, size_t n_groups, struct score *scores,
               struct err *err);

#endif
