/* model_case.h - the stored expectations of tests/data/models (made by scripts/reference/make_fixtures.py): a small model
 * of a supported family, token sequences, and what an independent PyTorch implementation computes for them under several
 * policies. */
#ifndef SPKV_TESTS_MODEL_CASE_H
#define SPKV_TESTS_MODEL_CASE_H

#include <jansson.h>

#include "engine/checkpoint.h"
#include "engine/policy.h"
#include "engine/safetensors.h"

enum { CASE_MAX_SEQUENCES = 8, CASE_MAX_TOKENS = 512 };

struct case_sequence {
    int n_tok, n_logit_rows;
    int32_t tokens[CASE_MAX_TOKENS];
    int logit_rows[CASE_MAX_TOKENS];
};

struct model_case {
    char dir[256];
    json_t *json;
    struct checkpoint *checkpoint;
    struct safetensors expected;
    int n_sequences;
    struct case_sequence sequences[CASE_MAX_SEQUENCES];
};

/* Names of all cases, sorted; returns how many (at most cap). 0 when the folder is absent. */
int model_case_list(char names[][64], int cap);

/* Fails the running test with the reason when the case cannot be opened. */
void model_case_open(const char *name, struct model_case *out);
void model_case_close(struct model_case *model);

/* Policy `name` of the case, resolved against its checkpoint. */
struct policy *model_case_policy(const struct model_case *model, const char *name);

/* Tensor seqI.POLICY.WHAT, NULL when the case does not store it. */
const struct tensor *model_case_expected(const struct model_case *model, int sequence, const char *policy, const char *what);

static inline double expected_at(const struct tensor *tensor, size_t i) {
    return dtype_load(tensor->data, tensor->dtype, i);
}

#endif
