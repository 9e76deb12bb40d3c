/* recommend_text.h - a recommendation as people and as programs read it. Nothing is printed here. */
#ifndef SPKV_CLI_RECOMMEND_TEXT_H
#define SPKV_CLI_RECOMMEND_TEXT_H

#include <jansson.h>

#include "analyze/comparison.h"
#include "analyze/recommendation.h"
#include "base/str.h"

struct recommend_view {
    const struct recommendation_input *input;
    const struct recommendation *result;
    const struct head_variation *variation; /* (n_layers, n_kv_heads) of the measure */
    size_t n_corpora;                       /* that it was taken over */
};

/* The table, then the verdict. */
void recommend_put_table(const struct recommend_view *view, struct str *out);
void recommend_put_verdict(const struct recommend_view *view, struct str *out);

/* How many more tokens would settle the choice; 0 = it is settled, infinite = more text will not do. */
double recommend_more_tokens(const struct recommend_view *view);

/* A new reference; NULL when memory is short. */
json_t *recommend_json(const struct recommend_view *view);

/* What the choice rests on, for made_by of a layout. */
json_t *recommend_evidence_json(const struct recommend_view *view);

#endif
