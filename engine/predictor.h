/* predictor.h - the utility predictor of one layer as host arrays in the shape of struct predict_args, from any
 * stored form (names under model.layers.N.self_attn.utility_predictor.):
 *
 *   kind            fc1.weight               fc1.bias        fc2.weight                             fc2.bias
 *   shared trunk    [hidden, d_model]        [hidden]        [n_kv_heads, hidden]                   [n_kv_heads]
 *   a trunk a head  [n_kv_heads, h, d_model] [n_kv_heads, h] [n_kv_heads, h] or [n_kv_heads, 1, h]  [n_kv_heads] or [.., 1]
 *   linear          absent                   absent          [n_kv_heads, d_model]                  [n_kv_heads]
 *   static gates    absent                   absent          absent                                 [n_kv_heads]
 *
 * A trunk a head becomes one trunk of n_kv_heads * h with a block-diagonal fc2. A linear predictor needs activation "none"
 * in its configuration: with any other, an absent fc1 is an error. Biases are never assumed. */
#ifndef SPKV_ENGINE_PREDICTOR_H
#define SPKV_ENGINE_PREDICTOR_H

#include <stddef.h>

#include "base/err.h"
#include "engine/checkpoint.h"

struct predictor_layer {
    size_t hidden; /* columns of fc2: width of the trunk, d_model for a linear predictor, 0 for static gates */
    float *fc1;    /* (hidden, d_model), NULL for linear and static */
    float *b1;     /* (hidden), NULL with fc1 */
    float *fc2;    /* (n_kv_heads, hidden), NULL for static */
    float *b2;     /* (n_kv_heads) */
};

/* Layer `layer` of a checkpoint that has a predictor. ERR_INPUT for absent tensors, wrong shapes, NaN and infinities. A
 * layer with a sliding window of its own has no predictor: do not ask for it. */
int predictor_layer_read(const struct checkpoint *checkpoint, int layer, struct predictor_layer *out, struct err *err);

/* The tensors of one layer under the names that a file gives them. */
enum predictor_part {
    PREDICTOR_FC1_WEIGHT,
    PREDICTOR_FC1_BIAS,
    PREDICTOR_FC2_WEIGHT,
    PREDICTOR_FC2_BIAS,
    PREDICTOR_N_PARTS
};
struct predictor_tensors {
    const char *where;                            /* the file or directory, for messages; borrowed */
    char name[PREDICTOR_N_PARTS][128];
    const struct tensor *part[PREDICTOR_N_PARTS]; /* NULL where absent; borrowed */
};

/* The same of tensors with other names. act: of the hidden layer, ACT_NONE for a linear predictor. */
int predictor_layer_make(const struct predictor_tensors *tensors, const struct model_config *config, enum act act,
                         struct predictor_layer *out, struct err *err);
void predictor_layer_free(struct predictor_layer *layer); /* legal on a zeroed struct */

#endif
