#include "engine/gate_network.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "engine/shards.h"

enum { MAX_CONFIG_BYTES = 1 << 20 };

static bool has_gates(const struct model_config *model, int layer) {
    return model->layers[layer].sliding_window == 0;
}

static int make_layers(struct gate_network *network, const struct model_config *model, struct err *err) {
    network->n_layers = model->n_layers;
    network->layers = mem_alloc((size_t)model->n_layers, sizeof *network->layers, "gates", err);
    return network->layers ? OK : ERR_MEMORY;
}

static int hash_file(const char *dir, const char *name, char hash[33], struct err *err) {
    char *path = file_join(dir, name, err);
    int rc = path ? file_hash(path, hash, err) : ERR_MEMORY;
    free(path);
    return rc;
}

/* --- our own format --------------------------------------------------------------------------------------------------- */

static int read_spkv(const char *dir, const char *model_dir, struct gate_network *network, struct err *err) {
    struct checkpoint *checkpoint;
    int rc = checkpoint_open(model_dir, dir, &checkpoint, err);
    if (rc != OK)
        return rc;
    const struct model_config *model = checkpoint_config(checkpoint);
    network->format = "spkv";
    if (!checkpoint_predictor(checkpoint))
        rc = err_set(err, ERR_INPUT, dir, "holds low-rank updates but no predictor: there are no gates here");
    else
        network->config = *checkpoint_predictor(checkpoint);
    if (rc == OK && network->config.lora_r > 0)
        rc = err_set(err, ERR_INPUT, dir, "these gates belong to low-rank updates of the model, which a policy cannot "
                                          "apply: give the directory with --predictor and use policy spkv");
    if (rc == OK)
        rc = make_layers(network, model, err);
    for (int l = 0; rc == OK && l < model->n_layers; l++)
        if (has_gates(model, l))
            rc = predictor_layer_read(checkpoint, l, &network->layers[l], err);
    checkpoint_close(checkpoint);
    return rc == OK ? hash_file(dir, "spkv.safetensors", network->hash, err) : rc;
}

/* --- KVzap ------------------------------------------------------------------------------------------------------------ */

static int check_size(const json_t *config, const char *key, int expected, const char *what, const char *where,
                      struct err *err) {
    int64_t n = 0;
    int rc = json_require(config, key, where, err);
    if (rc == OK)
        rc = json_get_int(config, key, 1, 1 << 30, &n, where, err);
    if (rc == OK && n != expected)
        rc = err_set(err, ERR_INPUT, where, "\"%s\" is %lld, but the model's %s is %d: these are the gates of another model",
                     key, (long long)n, what, expected);
    return rc;
}

static int read_kvzap_config(const json_t *config, const char *where, const struct model_config *model,
                             struct predictor_config *out, struct err *err) {
    int rc = check_size(config, "input_dim", model->d_model, "hidden_size", where, err);
    if (rc == OK)
        rc = check_size(config, "output_dim", model->n_kv_heads, "number of KV heads", where, err);
    if (rc == OK)
        rc = check_size(config, "n_modules", model->n_layers, "number of layers", where, err);
    *out = (struct predictor_config){.window = 128, .threshold = (double)NAN, .input = PREDICTOR_NORMED,
                                     .act = json_has(config, "hidden_dim") ? ACT_GELU : ACT_NONE};
    return rc;
}

/* Older models call the list of layers "module_list". */
static void find_kvzap_tensors(const struct shards *shards, int layer, bool linear, struct predictor_tensors *out) {
    static const char *const lists[] = {"layers", "module_list"};
    const char *const trunk[] = {".0.weight", ".0.bias", ".2.weight", ".2.bias"};
    const char *const alone[] = {NULL, NULL, ".weight", ".bias"};
    for (int list = 0; list < 2 && !out->part[PREDICTOR_FC2_BIAS]; list++)
        for (int part = 0; part < PREDICTOR_N_PARTS; part++) {
            const char *suffix = (linear ? alone : trunk)[part];
            snprintf(out->name[part], sizeof out->name[part], "%s.%d%s", lists[list], layer, suffix ? suffix : ".0");
            for (size_t i = 0; suffix && i < shards->n_tensors; i++)
                if (strcmp(shards->tensors[i].name, out->name[part]) == 0)
                    out->part[part] = &shards->tensors[i];
        }
}

static int read_kvzap(const char *dir, const json_t *config, const char *where, const struct model_config *model,
                      struct gate_network *network, struct err *err) {
    struct shards shards = {0};
    int rc = read_kvzap_config(config, where, model, &network->config, err);
    bool linear = network->config.act == ACT_NONE;
    network->format = "kvzap";
    if (rc == OK)
        rc = shards_open(dir, &shards, err);
    if (rc == OK)
        rc = make_layers(network, model, err);
    for (int l = 0; rc == OK && l < model->n_layers; l++) {
        struct predictor_tensors tensors = {.where = dir};
        find_kvzap_tensors(&shards, l, linear, &tensors);
        if (has_gates(model, l))
            rc = predictor_layer_make(&tensors, model, network->config.act, &network->layers[l], err);
    }
    shards_close(&shards);
    return rc == OK ? hash_file(dir, "model.safetensors", network->hash, err) : rc;
}

/* --- any -------------------------------------------------------------------------------------------------------------- */

static int read_foreign(const char *dir, const char *model_dir, struct gate_network *network, struct err *err) {
    struct model_config model;
    json_t *config = NULL;
    char *path = file_join(dir, "config.json", err);
    int rc = path ? OK : ERR_MEMORY;
    if (rc == OK && !file_exists(path))
        rc = err_set(err, ERR_INPUT, dir, "there are no gates here: neither spkv_config.json nor a config.json (of KVzap)");
    if (rc == OK)
        rc = json_read_object(path, MAX_CONFIG_BYTES, &config, err);
    if (rc == OK && !json_has(config, "n_modules"))
        rc = err_set(err, ERR_INPUT, path, "is not the configuration of gates: KVzap's have \"n_modules\"");
    if (rc == OK && (rc = model_config_read(model_dir, &model, err)) == OK) {
        rc = read_kvzap(dir, config, path, &model, network, err);
        model_config_free(&model);
    }
    json_decref(config);
    free(path);
    return rc;
}

int gate_network_read(const char *dir, const char *model_dir, struct gate_network **out, struct err *err) {
    struct gate_network *network = mem_alloc(1, sizeof *network, "gates", err);
    char *own = file_join(dir, "spkv_config.json", err);
    int rc = network && own ? OK : ERR_MEMORY;
    *out = NULL;
    if (rc == OK)
        rc = file_exists(own) ? read_spkv(dir, model_dir, network, err) : read_foreign(dir, model_dir, network, err);
    free(own);
    if (rc == OK)
        *out = network;
    else
        gate_network_free(network);
    return rc;
}

void gate_network_free(struct gate_network *network) {
    if (!network)
        return;
    for (int l = 0; network->layers && l < network->n_layers; l++)
        predictor_layer_free(&network->layers[l]);
    free(network->layers);
    free(network);
}

/* --- on a device ------------------------------------------------------------------------------------------------------ */

static int prepare(const struct model *model, const float *data, size_t n_rows, size_t n_cols, struct weight **out,
                   struct err *err) {
    const struct host_matrix matrix = {data, DTYPE_F32, n_rows, n_cols};
    bool borrowed;
    return data ? model->ops->weight_prepare(model->dev, &matrix, WEIGHT_F32, out, &borrowed, err) : OK;
}

static int upload(const struct model *model, const float *data, size_t n, float **out, struct err *err) {
    *out = data ? model_upload_real(model->ops, model->dev, data, n, err) : NULL;
    return data && !*out ? ERR_MEMORY : OK;
}

int gate_layers_create(const struct gate_network *network, const struct model *model, struct gate_layer **out,
                       struct err *err) {
    size_t d = (size_t)model->config->d_model, kv = (size_t)model->config->n_kv_heads;
    struct gate_layer *layers = mem_alloc((size_t)model->config->n_layers, sizeof *layers, "gates", err);
    int rc = layers ? OK : ERR_MEMORY;
    ASSERT(network->n_layers == model->config->n_layers);
    for (int l = 0; rc == OK && l < network->n_layers; l++) {
        const struct predictor_layer *from = &network->layers[l];
        if ((rc = prepare(model, from->fc1, from->hidden, d, &layers[l].fc1, err)) == OK &&
            (rc = prepare(model, from->fc2, kv, from->hidden, &layers[l].fc2, err)) == OK &&
            (rc = upload(model, from->b1, from->hidden, &layers[l].b1, err)) == OK)
            rc = upload(model, from->b2, kv, &layers[l].b2, err);
    }
    if (rc == OK)
        *out = layers;
    else
        gate_layers_free(model, layers);
    return rc;
}

void gate_layers_free(const struct model *model, struct gate_layer *layers) {
    for (int l = 0; layers && l < model->config->n_layers; l++) {
        model->ops->weight_free(model->dev, layers[l].fc1);
        model->ops->weight_free(model->dev, layers[l].fc2);
        model->ops->mem_free(model->dev, layers[l].b1);
        model->ops->mem_free(model->dev, layers[l].b2);
    }
    free(layers);
}
