#include "cli/static_gates.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/checkpoint.h"
#include "engine/predictor.h"

static int check(const struct checkpoint *checkpoint, const char *dir, const struct profile_meta *meta, struct err *err) {
    const struct model_config *c = checkpoint_config(checkpoint);
    if (!checkpoint_predictor(checkpoint))
        return err_set(err, ERR_INPUT, dir, "has no predictor: train some with spkv train adapt --static-gates");
    if ((uint32_t)c->n_layers != meta->n_layers || (uint32_t)c->n_kv_heads != meta->n_kv_heads)
        return err_set(err, ERR_INPUT, dir, "has %d layers x %d KV heads, the profiled model %u x %u", c->n_layers,
                       c->n_kv_heads, meta->n_layers, meta->n_kv_heads);
    return OK;
}

static int read_layer(const struct checkpoint *checkpoint, const char *dir, size_t layer, size_t n_kv_heads, double *out,
                      struct err *err) {
    struct predictor_layer p = {0};
    int rc = predictor_layer_read(checkpoint, (int)layer, &p, err);
    if (rc == OK && p.hidden != 0)
        rc = err_set(err, ERR_INPUT, dir, "the predictor of layer %zu looks at the text: it has no static gates", layer);
    for (size_t k = 0; rc == OK && k < n_kv_heads; k++)
        out[k] = 1 / (1 + exp(-(double)p.b2[k]));
    predictor_layer_free(&p);
    return rc;
}

/* Training with a frozen model saves the gates alone: they are opened over the model that was profiled. */
static int open_gates(const char *dir, const struct profile_meta *meta, struct checkpoint **out, struct err *err) {
    char *config = file_join(dir, "config.json", err);
    if (!config)
        return ERR_MEMORY;
    bool alone = !file_exists(config) && file_is_dir(dir);
    free(config);
    return checkpoint_open(alone ? meta->model_path : dir, alone ? dir : NULL, out, err);
}

int static_gates_read(const char *dir, const struct profile_meta *meta, double **out, bool *same_base, struct err *err) {
    struct checkpoint *checkpoint = NULL;
    size_t kv = meta->n_kv_heads;
    double *value = NULL;
    *out = NULL;
    int rc = open_gates(dir, meta, &checkpoint, err);
    if (rc == OK)
        rc = check(checkpoint, dir, meta, err);
    if (rc == OK && !(value = mem_alloc(meta->n_layers * kv, sizeof *value, "static gates", err)))
        rc = ERR_MEMORY;
    for (size_t layer = 0; rc == OK && layer < meta->n_layers; layer++) {
        if (meta->sliding_window[layer] == 0)
            rc = read_layer(checkpoint, dir, layer, kv, value + layer * kv, err);
        for (size_t k = 0; k < kv && meta->sliding_window[layer] != 0; k++)
            value[layer * kv + k] = NAN;
    }
    if (rc == OK)
        *same_base = strcmp(checkpoint_base_hash(checkpoint), meta->base_model_hash) == 0;
    checkpoint_close(checkpoint);
    if (rc == OK)
        *out = value;
    else
        free(value);
    return rc;
}
