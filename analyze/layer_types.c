#include "analyze/layer_types.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"

/* -- rounding --------------------------------------------------------------------------------------------------------- */

struct ranked_layer {
    uint32_t layer, n_global;
    double sum;
};

static int by_rank(const void *a, const void *b) {
    const struct ranked_layer *x = a, *y = b;
    if (x->n_global != y->n_global)
        return x->n_global > y->n_global ? -1 : 1;
    if (x->sum != y->sum)
        return x->sum > y->sum ? -1 : 1;
    return x->layer < y->layer ? -1 : x->layer > y->layer;
}

static bool slides(const struct layout *layout, size_t layer) {
    return layout_head(layout, layer, 0) == HEAD_SLIDING;
}

/* Layers that can be global, best first; returns how many. */
static size_t rank_layers(const struct layout *heads, const double *value, struct ranked_layer *out) {
    size_t n = 0;
    for (uint32_t layer = 0; layer < heads->n_layers; layer++) {
        struct ranked_layer r = {.layer = layer};
        for (size_t head = 0; head < heads->n_kv_heads; head++) {
            double x = value ? value[layer * heads->n_kv_heads + head] : 0;
            r.n_global += layout_head(heads, layer, head) == HEAD_GLOBAL;
            r.sum += isnan(x) ? 0 : x;
        }
        if (!slides(heads, layer))
            out[n++] = r;
    }
    qsort(out, n, sizeof *out, by_rank);
    return n;
}

static int copy_shape(const struct layout *from, struct layout **out, struct err *err) {
    size_t n = (size_t)from->n_layers * from->n_kv_heads;
    int rc = layout_create(from->n_layers, from->n_kv_heads, NULL, from->window, from->sinks, out, err);
    if (rc != OK)
        return rc;
    for (size_t i = 0; i < n; i++)
        (*out)->heads[i] = from->heads[i] == HEAD_SLIDING ? HEAD_SLIDING : HEAD_LOCAL;
    strcpy((*out)->base_model_hash, from->base_model_hash);
    if (!from->windows)
        return OK;
    if (!((*out)->windows = mem_alloc(n, sizeof *from->windows, "a layout", err)))
        return ERR_MEMORY;
    memcpy((*out)->windows, from->windows, n * sizeof *from->windows);
    return OK;
}

int layer_types_round(const struct layout *heads, const double *value, struct layout **out, struct layer_rounding *r,
                      struct err *err) {
    size_t n_global = layout_n_global(heads), n_full = n_global / heads->n_kv_heads;
    struct ranked_layer *ranked = mem_alloc(heads->n_layers, sizeof *ranked, "layers", err);
    *out = NULL;
    *r = (struct layer_rounding){.coverage_heads = NAN, .coverage_layers = NAN};
    int rc = ranked ? copy_shape(heads, out, err) : ERR_MEMORY;
    if (rc != OK) {
        layout_free(*out);
        *out = NULL;
        free(ranked);
        return rc;
    }
    r->n_full = n_full || !n_global ? n_full : 1;
    ASSERT(r->n_full <= rank_layers(heads, value, ranked));
    for (size_t i = 0; i < r->n_full; i++)
        memset((*out)->heads + (size_t)ranked[i].layer * heads->n_kv_heads, HEAD_GLOBAL, heads->n_kv_heads);
    for (size_t i = 0; i < (size_t)heads->n_layers * heads->n_kv_heads; i++) {
        r->n_lost += heads->heads[i] == HEAD_GLOBAL && (*out)->heads[i] != HEAD_GLOBAL;
        r->n_gained += heads->heads[i] != HEAD_GLOBAL && (*out)->heads[i] == HEAD_GLOBAL;
    }
    if (value) {
        r->coverage_heads = layout_coverage(heads, value);
        r->coverage_layers = layout_coverage(*out, value);
    }
    free(ranked);
    return OK;
}

/* -- the configuration ------------------------------------------------------------------------------------------------ */

struct patch {
    const struct layout *layers;
    json_t *config;
    const char *where;
    const char *type; /* model_type, "" when the configuration has none */
    void (*note)(void *self, const char *text);
    void *self;
    bool any_local, any_own; /* layers that become sliding, and those that are */
};

static void say(const struct patch *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(const struct patch *p, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    p->note(p->self, text);
}

static bool is_type(const struct patch *p, const char *type) {
    return strcmp(p->type, type) == 0;
}

static int check_shape(const struct patch *p, struct err *err) {
    int64_t n_layers = p->layers->n_layers, n_heads = p->layers->n_kv_heads, n_kv_heads;
    int rc = json_get_int(p->config, "num_hidden_layers", 1, INT32_MAX, &n_layers, p->where, err);
    if (rc == OK)
        rc = json_get_int(p->config, "num_attention_heads", 1, INT32_MAX, &n_heads, p->where, err);
    n_kv_heads = n_heads;
    if (rc == OK)
        rc = json_get_int(p->config, "num_key_value_heads", 1, INT32_MAX, &n_kv_heads, p->where, err);
    if (rc == OK && (n_layers != p->layers->n_layers || n_kv_heads != p->layers->n_kv_heads))
        rc = err_set(err, ERR_INPUT, p->where, "has %lld layers x %lld KV heads, the layout %u x %u", (long long)n_layers,
                     (long long)n_kv_heads, p->layers->n_layers, p->layers->n_kv_heads);
    return rc;
}

/* The one window of all layers that slide. */
static int find_window(const struct patch *p, int64_t *out, struct err *err) {
    uint32_t smallest = UINT32_MAX, largest = 0;
    int64_t own = 0;
    int rc = json_get_int(p->config, "sliding_window", 1, INT32_MAX, &own, p->where, err);
    for (size_t i = 0; i < (size_t)p->layers->n_layers * p->layers->n_kv_heads; i++)
        if (p->layers->heads[i] == HEAD_LOCAL) {
            uint32_t window = layout_window(p->layers, i / p->layers->n_kv_heads, i % p->layers->n_kv_heads);
            smallest = window < smallest ? window : smallest;
            largest = window > largest ? window : largest;
        }
    if (rc == OK && p->any_own && own == 0)
        return err_set(err, ERR_INPUT, p->where, "the layout has sliding layers of the model's own, the configuration no "
                       "sliding_window: is it another model's?");
    if (rc == OK && p->any_own && p->any_local && own != largest)
        return err_set(err, ERR_INPUT, p->where, "the model's own sliding layers have a window of %lld, the layout one of "
                       "%u, and a configuration has one for all layers: make the layout with --window %lld", (long long)own,
                       largest, (long long)own);
    if (largest > smallest)
        say(p, "windows of %u to %u become %u: a configuration has one for all layers", smallest, largest, largest);
    *out = p->any_local ? largest : own;
    return rc;
}

static int set_absent(const struct patch *p, const char *key, json_t *value, struct err *err) {
    if (json_object_get(p->config, key)) {
        json_decref(value);
        return OK;
    }
    return json_object_set_new(p->config, key, value) == 0 ? OK : err_memory(err, "JSON", 0);
}

/* A reader that fills in what is missing fills in other values for another type: what llama's means is written down. */
static int write_defaults(const struct patch *p, struct err *err) {
    static const struct { const char *key; int value; } sizes[] = {{"intermediate_size", 11008},
                                                                  {"max_position_embeddings", 2048},
                                                                  {"bos_token_id", 1},
                                                                  {"eos_token_id", 2}};
    int rc = set_absent(p, "num_key_value_heads", json_integer(p->layers->n_kv_heads), err);
    for (size_t i = 0; rc == OK && i < sizeof sizes / sizeof *sizes; i++)
        rc = set_absent(p, sizes[i].key, json_integer(sizes[i].value), err);
    if (rc == OK)
        rc = set_absent(p, "tie_word_embeddings", json_false(), err);
    if (rc == OK)
        rc = set_absent(p, "pad_token_id", json_null(), err);
    if (rc == OK && !json_object_get(p->config, "rope_parameters"))
        rc = set_absent(p, "rope_theta", json_real(10000), err);
    if (json_is_null(json_object_get(p->config, "head_dim")))
        json_object_del(p->config, "head_dim");
    return rc;
}

/* The twin with biases: a smollm3 whose layers all rotate. */
static int set_rotation(const struct patch *p, struct err *err) {
    json_t *list = json_array();
    for (size_t layer = 0; layer < p->layers->n_layers; layer++)
        json_array_append_new(list, json_integer(1));
    json_object_set_new(p->config, "use_sliding_window", json_true());
    return json_object_set_new(p->config, "no_rope_layers", list) == 0 ? OK : err_memory(err, "JSON", 0);
}

static int rename_llama(const struct patch *p, struct err *err) {
    bool attention = false, mlp = false;
    int rc = json_get_bool(p->config, "attention_bias", &attention, p->where, err);
    if (rc == OK)
        rc = json_get_bool(p->config, "mlp_bias", &mlp, p->where, err);
    if (rc == OK)
        rc = write_defaults(p, err);
    if (rc == OK && (attention || mlp))
        rc = set_rotation(p, err);
    if (rc != OK)
        return rc;
    const char *type = attention || mlp ? "smollm3" : "mistral";
    const char *class = attention || mlp ? "SmolLM3ForCausalLM" : "MistralForCausalLM";
    say(p, "model_type llama becomes %s, the same model by another name: readers of llama ignore layer_types", type);
    json_object_set_new(p->config, "architectures", json_pack("[s]", class));
    return json_object_set_new(p->config, "model_type", json_string(type)) == 0 ? OK : err_memory(err, "JSON", 0);
}

static int follow_type(const struct patch *p, struct err *err) {
    if (is_type(p, "llama"))
        return rename_llama(p, err);
    if (is_type(p, "qwen2") || is_type(p, "qwen3") || is_type(p, "smollm3"))
        return json_object_set_new(p->config, "use_sliding_window", json_true()) ? err_memory(err, "JSON", 0) : OK;
    if (is_type(p, "gemma3_text") || is_type(p, "gemma3"))
        return err_set(err, ERR_INPUT, p->where, "a sliding layer of %s has another RoPE base than a full one: a layer that "
                       "changes its kind would be another model", p->type);
    if (*p->type && !is_type(p, "mistral") && !is_type(p, "gemma2"))
        say(p, "model_type %s: whether its readers follow layer_types is not known here", p->type);
    return OK;
}

static int set_layers(const struct patch *p, int64_t window, struct err *err) {
    json_t *list = json_array();
    for (size_t layer = 0; layer < p->layers->n_layers; layer++)
        json_array_append_new(list, json_string(layout_head(p->layers, layer, 0) == HEAD_GLOBAL ? "full_attention"
                                                                                                : "sliding_attention"));
    if (json_array_size(list) != p->layers->n_layers || json_object_set_new(p->config, "layer_types", list) != 0)
        return err_memory(err, "JSON", p->layers->n_layers);
    return window == 0 || json_object_set_new(p->config, "sliding_window", json_integer(window)) == 0
               ? OK
               : err_memory(err, "JSON", 0);
}

int layer_types_patch(const struct layout *layers, json_t *config, const char *where,
                      void (*note)(void *self, const char *text), void *self, struct err *err) {
    const char *type = "";
    int64_t window = 0;
    struct patch p = {.layers = layers, .config = config, .where = where, .note = note, .self = self};
    int rc = json_get_string(config, "model_type", &type, where, err);
    p.type = type;
    for (size_t layer = 0; layer < layers->n_layers; layer++) {
        p.any_local |= layout_head(layers, layer, 0) == HEAD_LOCAL;
        p.any_own |= slides(layers, layer);
    }
    if (rc == OK)
        rc = check_shape(&p, err);
    if (rc == OK)
        rc = find_window(&p, &window, err);
    if (rc == OK && p.any_local && layers->sinks > 0)
        say(&p, "%u sinks are lost: a sliding layer sees its window only", layers->sinks);
    if (rc == OK && p.any_local)
        rc = follow_type(&p, err);
    return rc == OK ? set_layers(&p, window, err) : rc;
}
