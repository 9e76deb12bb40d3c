#include "engine/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/shards.h"

enum { MAX_CONFIG_BYTES = 16 << 20 };

struct checkpoint {
    char *dir;
    char *config_text;       /* config.json as it is, config_size bytes */
    size_t config_size;
    char *canonical_text;    /* without "spkv", as the base hash wants it */
    struct model_config config;
    bool has_added, has_predictor; /* a configuration of added tensors; some of them are a predictor's */
    struct predictor_config added;
    char *base_hash_named;   /* "base_model_hash" of the predictor's configuration, or NULL */
    bool predictor_ignored;  /* predictor tensors without a configuration */
    struct shards model;
    struct safetensors extra; /* spkv.safetensors; zero when absent */
    size_t n_tensors;
    struct tensor *tensors;  /* (n_tensors) of both, in name order */
    XXH3_state_t *hasher;
    char model_hash[33], base_hash[33]; /* "" = not computed */
    struct str warning;
    bool warning_made;
};

/* --- names ------------------------------------------------------------------------------------------------------------ */

static const char predictor_mark[] = ".self_attn.utility_predictor.";

static bool is_predictor(const char *name) {
    return strstr(name, predictor_mark) != NULL;
}

static bool is_lora(const char *name) {
    return strstr(name, ".lora_") != NULL;
}

static bool is_added(const char *name) {
    return is_predictor(name) || is_lora(name);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static int name_against(const void *key, const void *element) {
    return strcmp(key, ((const struct tensor *)element)->name);
}

/* "model.layers.N.self_attn.utility_predictor.PART" with N a layer of the model and PART one that is read. */
static int check_predictor_name(const struct checkpoint *c, const struct tensor *tensor, struct err *err) {
    static const char *const parts[] = {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"};
    static const char prefix[] = "model.layers.";
    char *end = NULL;
    bool known = false;
    long layer = -1;
    if (strncmp(tensor->name, prefix, sizeof prefix - 1) == 0)
        layer = strtol(tensor->name + sizeof prefix - 1, &end, 10);
    if (layer < 0 || strncmp(end, predictor_mark, sizeof predictor_mark - 1) != 0)
        return err_set(err, ERR_INPUT, tensor->file, "tensor %s is not named as a predictor's: expected model.layers.N%s...",
                       tensor->name, predictor_mark);
    if (layer >= c->config.n_layers)
        return err_set(err, ERR_INPUT, tensor->file, "tensor %s: the model has %d layers: is this the predictor of another "
                                                     "model?", tensor->name, c->config.n_layers);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        known |= strcmp(end + sizeof predictor_mark - 1, parts[i]) == 0;
    return known ? OK : err_set(err, ERR_INPUT, tensor->file, "tensor %s is unknown: a predictor has fc1 and fc2, each with "
                                                              "weight and bias", tensor->name);
}

/* A low-rank tensor needs its partner, the weight that it updates, and a configured rank. */
static int check_lora_name(const struct checkpoint *c, const struct tensor *tensor, struct err *err) {
    static const char *const suffixes[] = {".lora_A.weight", ".lora_B.weight"};
    size_t n = strlen(tensor->name), n_suffix = strlen(suffixes[0]);
    struct str weight = {0}, partner = {0};
    int which = -1, rc = OK;
    for (int i = 0; i < 2; i++)
        if (n > n_suffix && strcmp(tensor->name + n - n_suffix, suffixes[i]) == 0)
            which = i;
    if (which < 0)
        return err_set(err, ERR_INPUT, tensor->file, "tensor %s is a low-rank update of an unknown kind (supported: "
                                                     "lora_A.weight and lora_B.weight)", tensor->name);
    if (!c->has_added || c->added.lora_r == 0)
        return err_set(err, ERR_INPUT, tensor->file,
                       "tensor %s is a low-rank update, but no configuration gives its \"r\" and \"lora_alpha\": add them "
                       "to the \"spkv\" configuration", tensor->name);
    str_append(&weight, tensor->name, n - n_suffix);
    str_append(&partner, tensor->name, n - n_suffix);
    str_puts(&weight, ".weight");
    str_puts(&partner, suffixes[1 - which]);
    if (weight.failed || partner.failed)
        rc = err_memory(err, "a tensor name", n);
    else if (!checkpoint_find(c, weight.data))
        rc = err_set(err, ERR_INPUT, tensor->file, "tensor %s updates %s, which the model does not have: was it made for "
                                                   "another model?", tensor->name, weight.data);
    else if (!checkpoint_find(c, partner.data))
        rc = err_set(err, ERR_INPUT, tensor->file, "tensor %s has no partner %s: the file is incomplete, save it again",
                     tensor->name, partner.data);
    str_free(&weight);
    str_free(&partner);
    return rc;
}

/* --- opening ---------------------------------------------------------------------------------------------------------- */

static int read_config(struct checkpoint *c, json_t **object, struct err *err) {
    char *path = file_join(c->dir, "config.json", err);
    int rc = path ? model_config_read(c->dir, &c->config, err) : ERR_MEMORY;
    if (rc == OK)
        rc = file_read_all(path, MAX_CONFIG_BYTES, &c->config_text, &c->config_size, err);
    if (rc == OK)
        rc = json_parse_object(c->config_text, c->config_size, path, object, err);
    free(path);
    return rc;
}

/* config.json without "spkv" in the one spelling that the base hash is defined over. */
static int make_canonical(struct checkpoint *c, const json_t *object, struct err *err) {
    json_t *copy = json_copy((json_t *)(uintptr_t)object);
    if (copy)
        json_object_del(copy, "spkv");
    c->canonical_text = copy ? json_dumps(copy, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENSURE_ASCII) : NULL;
    json_decref(copy);
    return c->canonical_text ? OK : err_memory(err, "config.json", c->config_size);
}

static int use_predictor_config(struct checkpoint *c, const json_t *object, const char *where, struct err *err) {
    const char *named = NULL;
    int rc = predictor_config_read(object, where, &c->added, err);
    if (rc == OK)
        rc = json_get_string(object, "base_model_hash", &named, where, err);
    if (rc == OK && named && !(c->base_hash_named = mem_strdup(named, err)))
        rc = ERR_MEMORY;
    c->has_added = rc == OK;
    return rc;
}

/* spkv.safetensors may hold predictor and low-rank tensors only; PEFT's prefix is cut from their names. */
static int check_extra_names(struct checkpoint *c, struct err *err) {
    static const char peft[] = "base_model.model.";
    for (size_t i = 0; i < c->extra.n_tensors; i++) {
        struct tensor *tensor = &c->extra.tensors[i];
        if (strncmp(tensor->name, peft, sizeof peft - 1) == 0)
            tensor->name += sizeof peft - 1;
        if (!is_added(tensor->name))
            return err_set(err, ERR_INPUT, tensor->file, "tensor %s is neither of a predictor nor a low-rank update: store "
                                                         "changed weights as a whole model", tensor->name);
    }
    if (c->extra.n_tensors == 0)
        return err_set(err, ERR_INPUT, c->extra.path, "there is no tensor in this file: save the predictor again");
    return OK;
}

static int read_predictor_dir(struct checkpoint *c, const char *dir, struct err *err) {
    char *config_path = file_join(dir, "spkv_config.json", err), *path = file_join(dir, "spkv.safetensors", err);
    json_t *object = NULL;
    int rc = config_path && path ? OK : ERR_MEMORY;
    if (rc == OK && !file_exists(config_path))
        rc = err_set(err, ERR_INPUT, config_path, "no such file: a predictor is a folder with spkv_config.json and "
                                                  "spkv.safetensors");
    if (rc == OK && !file_exists(path))
        rc = err_set(err, ERR_INPUT, path, "no such file, but spkv_config.json is beside it: fetch the predictor's weights");
    if (rc == OK)
        rc = json_read_object(config_path, MAX_CONFIG_BYTES, &object, err);
    if (rc == OK)
        rc = use_predictor_config(c, object, config_path, err);
    if (rc == OK && (rc = safetensors_open(path, &c->extra, err)) == OK)
        rc = check_extra_names(c, err);
    json_decref(object);
    free(config_path);
    free(path);
    return rc;
}

/* Among the model's tensors, beside them, or nowhere. */
static int look_for_predictor(struct checkpoint *c, const json_t *config, struct err *err) {
    char *path = file_join(c->dir, "config.json", err), *beside = file_join(c->dir, "spkv_config.json", err);
    json_t *object = NULL;
    bool among = false;
    int rc = path && beside ? json_get_object(config, "spkv", &object, path, err) : ERR_MEMORY;
    for (size_t i = 0; i < c->model.n_tensors; i++)
        among |= is_predictor(c->model.tensors[i].name);
    if (rc == OK && object && among)
        rc = use_predictor_config(c, object, path, err);
    else if (rc == OK && file_exists(beside))
        rc = read_predictor_dir(c, c->dir, err);
    else if (rc == OK && object)
        rc = err_set(err, ERR_INPUT, path,
                     "there is an \"spkv\" object, but no predictor tensor among the weights and no spkv_config.json "
                     "beside them: fetch them, or remove the object for a dense model");
    else
        c->predictor_ignored = among;
    free(path);
    free(beside);
    return rc;
}

/* The model's tensors and those of spkv.safetensors in one list; the latter replace all added tensors of the model. */
static int merge_tensors(struct checkpoint *c, struct err *err) {
    size_t n = 0, n_max;
    if (!size_add(c->model.n_tensors, c->extra.n_tensors, &n_max))
        return err_memory(err, "tensor list", c->model.n_tensors);
    c->tensors = mem_alloc(n_max, sizeof *c->tensors, "tensor list", err);
    if (!c->tensors)
        return ERR_MEMORY;
    for (size_t i = 0; i < c->model.n_tensors; i++)
        if (!c->extra.path || !is_added(c->model.tensors[i].name))
            c->tensors[n++] = c->model.tensors[i];
    for (size_t i = 0; i < c->extra.n_tensors; i++)
        c->tensors[n++] = c->extra.tensors[i];
    c->n_tensors = n;
    qsort(c->tensors, n, sizeof *c->tensors, by_name);
    for (size_t i = 1; i < n; i++)
        if (strcmp(c->tensors[i].name, c->tensors[i - 1].name) == 0)
            return err_set(err, ERR_INPUT, c->tensors[i].file, "tensor %s is there twice, with and without PEFT's prefix: "
                                                               "save the file again", c->tensors[i].name);
    return OK;
}

static int check_added(struct checkpoint *c, struct err *err) {
    int rc = OK;
    for (size_t i = 0; rc == OK && i < c->n_tensors; i++) {
        c->has_predictor |= c->has_added && is_predictor(c->tensors[i].name);
        if (is_lora(c->tensors[i].name))
            rc = check_lora_name(c, &c->tensors[i], err);
        else if (c->has_predictor && is_predictor(c->tensors[i].name))
            rc = check_predictor_name(c, &c->tensors[i], err);
    }
    return rc;
}

static int open_parts(struct checkpoint *c, const char *predictor_dir, struct err *err) {
    json_t *object = NULL;
    int rc;
    if (!file_is_dir(c->dir))
        return err_set(err, ERR_INPUT, c->dir, "%s: give the folder that holds config.json and the weights",
                       file_exists(c->dir) ? "this is a file" : "there is no such folder");
    rc = read_config(c, &object, err);
    if (rc == OK)
        rc = make_canonical(c, object, err);
    if (rc == OK)
        rc = shards_open(c->dir, &c->model, err);
    if (rc == OK)
        rc = predictor_dir ? read_predictor_dir(c, predictor_dir, err) : look_for_predictor(c, object, err);
    if (rc == OK)
        rc = merge_tensors(c, err);
    if (rc == OK)
        rc = check_added(c, err);
    json_decref(object);
    return rc;
}

int checkpoint_open(const char *dir, const char *predictor_dir, struct checkpoint **out, struct err *err) {
    struct checkpoint *c = mem_alloc(1, sizeof *c, "a checkpoint", err);
    int rc = c ? OK : ERR_MEMORY;
    *out = NULL;
    if (rc == OK && !(c->dir = mem_strdup(dir, err)))
        rc = ERR_MEMORY;
    if (rc == OK && !(c->hasher = XXH3_createState()))
        rc = err_memory(err, "a hash", 1024);
    if (rc == OK)
        rc = open_parts(c, predictor_dir, err);
    if (rc == OK)
        *out = c;
    else
        checkpoint_close(c);
    return rc;
}

void checkpoint_close(struct checkpoint *c) {
    if (!c)
        return;
    XXH3_freeState(c->hasher);
    shards_close(&c->model);
    safetensors_close(&c->extra);
    model_config_free(&c->config);
    str_free(&c->warning);
    free(c->tensors);
    free(c->base_hash_named);
    free(c->canonical_text);
    free(c->config_text);
    free(c->dir);
    free(c);
}

/* --- what it holds ---------------------------------------------------------------------------------------------------- */

const char *checkpoint_dir(const struct checkpoint *c) {
    return c->dir;
}

const struct model_config *checkpoint_config(const struct checkpoint *c) {
    return &c->config;
}

const struct predictor_config *checkpoint_predictor(const struct checkpoint *c) {
    return c->has_predictor ? &c->added : NULL;
}

const struct predictor_config *checkpoint_added(const struct checkpoint *c) {
    return c->has_added ? &c->added : NULL;
}

const struct tensor *checkpoint_find(const struct checkpoint *c, const char *name) {
    return c->n_tensors ? bsearch(name, c->tensors, c->n_tensors, sizeof *c->tensors, name_against) : NULL;
}

size_t checkpoint_n_tensors(const struct checkpoint *c) {
    return c->n_tensors;
}

const struct tensor *checkpoint_tensor(const struct checkpoint *c, size_t i) {
    ASSERT(i < c->n_tensors);
    return &c->tensors[i];
}

/* The numbers of config.json that the shape of a tensor follows from. */
static void shape_cause(const struct model_config *m, const char *name, char *out, size_t n) {
    if (strstr(name, "utility_predictor"))
        snprintf(out, n, "num_key_value_heads is %d and hidden_size %d", m->n_kv_heads, m->d_model);
    else if (strstr(name, "k_proj") || strstr(name, "v_proj"))
        snprintf(out, n, "num_key_value_heads is %d and head_dim %d", m->n_kv_heads, m->head_dim);
    else if (strstr(name, "q_proj") || strstr(name, "o_proj"))
        snprintf(out, n, "num_attention_heads is %d and head_dim %d", m->n_heads, m->head_dim);
    else if (strstr(name, "q_norm") || strstr(name, "k_norm"))
        snprintf(out, n, "head_dim is %d", m->head_dim);
    else if (strstr(name, ".mlp."))
        snprintf(out, n, "intermediate_size is %d and hidden_size %d", m->d_ffn, m->d_model);
    else if (strstr(name, "embed_tokens") || strstr(name, "lm_head"))
        snprintf(out, n, "vocab_size is %d and hidden_size %d", m->vocab_size, m->d_model);
    else
        snprintf(out, n, "hidden_size is %d", m->d_model);
}

static int refuse_missing(const struct checkpoint *c, const char *name, struct err *err) {
    size_t n = strlen(name);
    if (strcmp(name, "lm_head.weight") == 0)
        return err_set(err, ERR_INPUT, c->dir,
                       "tensor lm_head.weight is missing\n(tie_word_embeddings is false in config.json: set it to true "
                       "if the output layer is the embedding)");
    if (is_added(name))
        return err_set(err, ERR_INPUT, c->dir, "tensor %s is missing\n(the predictor is incomplete: save it again)", name);
    if (n > 5 && strcmp(name + n - 5, ".bias") == 0)
        return err_set(err, ERR_INPUT, c->dir,
                       "tensor %s is missing\n(config.json says that this layer has biases: is it of another model than "
                       "the weights?)", name);
    return err_set(err, ERR_INPUT, c->dir,
                   "tensor %s is missing\n(is the config of another model beside these weights, or is a shard missing?)",
                   name);
}

int checkpoint_require(const struct checkpoint *c, const char *name, int n_dims, size_t n_rows, size_t n_cols,
                       const struct tensor **out, struct err *err) {
    const struct tensor *tensor = checkpoint_find(c, name);
    struct tensor expected = {.n_dims = n_dims, .shape = {n_rows, n_cols}};
    char cause[160], shape[192], expected_shape[64];
    *out = NULL;
    ASSERT(n_dims == 1 || n_dims == 2);
    if (!tensor)
        return refuse_missing(c, name, err);
    if (tensor->n_dims == n_dims && tensor->shape[0] == n_rows && (n_dims == 1 || tensor->shape[1] == n_cols)) {
        *out = tensor;
        return OK;
    }
    tensor_format_shape(tensor, shape, sizeof shape);
    tensor_format_shape(&expected, expected_shape, sizeof expected_shape);
    shape_cause(&c->config, name, cause, sizeof cause);
    return err_set(err, ERR_INPUT, tensor->file,
                   "tensor %s is %s, expected %s\n(%s in config.json: is the config of another model beside these weights?)",
                   name, shape, expected_shape, cause);
}

/* --- hashes ----------------------------------------------------------------------------------------------------------- */

static void hash_u64(XXH3_state_t *state, uint64_t value) {
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(value >> 8 * i);
    XXH3_128bits_update(state, bytes, sizeof bytes);
}

static void hash_tensor(XXH3_state_t *state, const struct tensor *t) {
    const char *dtype = t->dtype == DTYPE_F32 ? "F32" : t->dtype == DTYPE_BF16 ? "BF16" : "F16";
    XXH3_128bits_update(state, t->name, strlen(t->name) + 1);
    XXH3_128bits_update(state, dtype, strlen(dtype) + 1);
    hash_u64(state, (uint64_t)t->n_dims);
    for (int i = 0; i < t->n_dims; i++)
        hash_u64(state, t->shape[i]);
    XXH3_128bits_update(state, t->data, t->n_items * dtype_size(t->dtype));
}

/* `added`: predictor and low-rank tensors too. */
static void hash_all(struct checkpoint *c, const char *text, size_t n, bool added, char out[33]) {
    XXH3_128bits_reset(c->hasher);
    XXH3_128bits_update(c->hasher, text, n);
    for (size_t i = 0; i < c->n_tensors; i++)
        if (added || !is_added(c->tensors[i].name))
            hash_tensor(c->hasher, &c->tensors[i]);
    hash_hex(XXH3_128bits_digest(c->hasher), out);
}

const char *checkpoint_model_hash(struct checkpoint *c) {
    if (!c->model_hash[0])
        hash_all(c, c->config_text, c->config_size, true, c->model_hash);
    return c->model_hash;
}

const char *checkpoint_base_hash(struct checkpoint *c) {
    if (!c->base_hash[0])
        hash_all(c, c->canonical_text, strlen(c->canonical_text), false, c->base_hash);
    return c->base_hash;
}

const char *checkpoint_warning(struct checkpoint *c) {
    if (!c->warning_made && c->predictor_ignored)
        str_puts(&c->warning, "The weights hold predictor tensors, but config.json has no \"spkv\" object that says how to "
                              "use them: they are ignored.\n");
    if (!c->warning_made && c->base_hash_named && strcmp(c->base_hash_named, checkpoint_base_hash(c)) != 0)
        str_printf(&c->warning, "The predictor was made for a model with base_model_hash %s, this model has %s: calibrate "
                                "its threshold anew before trusting its densities.\n", c->base_hash_named,
                   checkpoint_base_hash(c));
    c->warning_made = true;
    return c->warning.len ? str_text(&c->warning) : NULL;
}
