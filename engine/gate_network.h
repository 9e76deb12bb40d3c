/* gate_network.h - a predictor from a directory of its own, for a model that is loaded already: so that several predictors
 * can be compared on one model. In host memory, and, as sessions use it, on a device.
 *
 *   spkv    spkv_config.json and spkv.safetensors (formats of engine/predictor.h)
 *   kvzap   config.json with input_dim, output_dim, n_modules and hidden_dim (null: linear), and model.safetensors, as the
 *           KVzap models of kvpress are stored: layers.N.0 and layers.N.2 (layers.N alone when linear), each with weight
 *           and bias; GELU, the normed input of attention, identity output: the log of a score, no threshold of its own
 *
 * WG-KV's gates look at keys and not at hidden states, and are stored as pickles: not read. */
#ifndef SPKV_ENGINE_GATE_NETWORK_H
#define SPKV_ENGINE_GATE_NETWORK_H

#include "engine/model.h"
#include "engine/predictor.h"

struct gate_network {
    const char *format;              /* "spkv", "kvzap"; static */
    struct predictor_config config;  /* threshold NaN where the format has none */
    struct predictor_layer *layers;  /* (n_layers); zero in the model's own sliding layers */
    int n_layers;
    char hash[33];                   /* of the file with the weights */
};

/* Reads the gates in `dir` for the model in model_dir. ERR_INPUT for another model's, and for files that are no gates. */
int gate_network_read(const char *dir, const char *model_dir, struct gate_network **out, struct err *err);
void gate_network_free(struct gate_network *network);

/* A layer on a device, as in struct predict_args; NULL where it has none. */
struct gate_layer {
    struct weight *fc1, *fc2;
    float *b1, *b2;
};

/* (n_layers) layers on the model's device. The network's memory stays in use until they are freed. */
int gate_layers_create(const struct gate_network *network, const struct model *model, struct gate_layer **out,
                       struct err *err);
void gate_layers_free(const struct model *model, struct gate_layer *layers); /* NULL is legal */

#endif
