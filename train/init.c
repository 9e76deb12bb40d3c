#include "train/init.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/model_tensors.h"
#include "engine/safetensors_write.h"

enum { MAX_CONFIG_BYTES = 16 << 20, BLOCK_ITEMS = 1 << 14 };

/* A tensor to be written: N(mean, deviation). */
struct start {
    char name[128];
    float mean, deviation;
};

/* A file of tensors while it is planned. */
struct plan {
    size_t n;
    struct tensor_plan *tensors; /* (n) their names point into starts */
    struct start *starts;        /* (n) */
};

static int plan_create(size_t n_max, struct plan *plan, struct err *err) {
    *plan = (struct plan){.tensors = mem_alloc(n_max, sizeof *plan->tensors, "tensors", err),
                          .starts = mem_alloc(n_max, sizeof *plan->starts, "tensors", err)};
    return plan->tensors && plan->starts ? OK : ERR_MEMORY;
}

static void plan_free(struct plan *plan) {
    free(plan->tensors);
    free(plan->starts);
}

static void plan_add(struct plan *plan, const struct model_tensor *t, double mean, double deviation) {
    struct start *start = &plan->starts[plan->n];
    struct tensor_plan *tensor = &plan->tensors[plan->n++];
    *start = (struct start){.mean = (float)mean, .deviation = (float)deviation};
    memcpy(start->name, t->name, sizeof start->name);
    *tensor = (struct tensor_plan){.name = start->name, .dtype = DTYPE_F32, .n_dims = t->n_rows > 0 ? 2 : 1};
    tensor->shape[0] = t->n_rows > 0 ? t->n_rows : t->n_cols;
    tensor->shape[1] = t->n_rows > 0 ? t->n_cols : 0;
}

/* Four normal numbers, the block-th of a key (Box and Muller, 1958). */
static void normal_block(uint64_t key, uint64_t block, float out[4]) {
    const double two_pi = 6.283185307179586477;
    struct rng_block r = rng_philox(key, (struct rng_block){{(uint32_t)block, (uint32_t)(block >> 32), 0, 0}});
    for (int i = 0; i < 4; i += 2) {
        double radius = sqrt(-2 * log(((double)r.v[i] + 1) * 0x1p-32)), angle = two_pi * (double)r.v[i + 1] * 0x1p-32;
        out[i] = (float)(radius * cos(angle));
        out[i + 1] = (float)(radius * sin(angle));
    }
}

static int write_start(struct safetensors_writer *w, const struct start *start, size_t n, uint64_t seed, struct err *err) {
    uint64_t key = XXH3_64bits_withSeed(start->name, strlen(start->name), seed);
    float block[BLOCK_ITEMS];
    int rc = OK;
    for (size_t at = 0; rc == OK && at < n; at += BLOCK_ITEMS) {
        size_t count = n - at < BLOCK_ITEMS ? n - at : BLOCK_ITEMS;
        for (size_t i = 0; i < count && start->deviation > 0; i += 4)
            normal_block(key, (at + i) / 4, block + i);
        for (size_t i = 0; i < count; i++)
            block[i] = start->deviation > 0 ? start->mean + start->deviation * block[i] : start->mean;
        rc = safetensors_writer_put(w, block, count, err);
    }
    return rc;
}

static int plan_write(const struct plan *plan, uint64_t seed, const char *dir, const char *name, struct err *err) {
    static const struct tensor_note format = {"format", "pt"};
    char *path = file_join(dir, name, err);
    struct safetensors_writer w = {0};
    int rc = path ? safetensors_writer_open(path, plan->tensors, plan->n, &format, 1, &w, err) : ERR_MEMORY;
    for (size_t i = 0; rc == OK && i < plan->n; i++) {
        const struct tensor_plan *t = &plan->tensors[i];
        rc = write_start(&w, &plan->starts[i], t->n_dims == 1 ? t->shape[0] : t->shape[0] * t->shape[1], seed, err);
    }
    if (rc == OK)
        rc = safetensors_writer_commit(&w, err);
    safetensors_writer_discard(&w);
    free(path);
    return rc;
}

/* The table of tensors needs a model; this one has no weights. Free its layers. */
static int empty_model(const struct model_config *config, struct model *out, struct err *err) {
    *out = (struct model){.config = config,
                          .layers = mem_alloc((size_t)config->n_layers, sizeof *out->layers, "layers", err)};
    return out->layers ? OK : ERR_MEMORY;
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

static int write_weights(const struct model_config *config, double range, uint64_t seed, const char *dir, struct err *err) {
    struct model model;
    struct plan plan = {0};
    int rc = empty_model(config, &model, err);
    if (rc == OK)
        rc = plan_create(model_n_tensors(&model), &plan, err);
    for (size_t i = 0; rc == OK && i < model_n_tensors(&model); i++) {
        struct model_tensor t = model_tensor_at(&model, i);
        if (!t.present)
            continue;
        if (t.weight)
            plan_add(&plan, &t, 0, range);
        else
            plan_add(&plan, &t, ends_with(t.name, ".bias") || config->norm_plus_one ? 0 : 1, 0);
    }
    if (rc == OK)
        rc = plan_write(&plan, seed, dir, "model.safetensors", err);
    plan_free(&plan);
    free(model.layers);
    return rc;
}

static int copy_where_present(const char *from_dir, const char *name, const char *to_dir, struct err *err) {
    char *from = file_join(from_dir, name, err), *to = file_join(to_dir, name, err);
    int rc = from && to ? OK : ERR_MEMORY;
    if (rc == OK && file_exists(from))
        rc = file_copy(from, to, err);
    free(from);
    free(to);
    return rc;
}

/* The folder of a file, "." for a plain name. Free it. */
static char *folder_of(const char *path, struct err *err) {
    const char *name = file_basename(path);
    return name == path ? mem_strdup(".", err) : mem_strndup(path, (size_t)(name - path), err);
}

/* config.json of a model without predictor and history. */
static int write_config(json_t *object, const char *dir, struct err *err) {
    char *path = file_join(dir, "config.json", err);
    int rc = path ? OK : ERR_MEMORY;
    json_object_del(object, "spkv");
    json_object_del(object, "trained_with");
    json_object_del(object, "torch_dtype"); /* the older name of "dtype" */
    if (rc == OK && json_object_set_new(object, "dtype", json_string("float32")) != 0)
        rc = err_memory(err, "config.json", 1024);
    if (rc == OK)
        rc = json_write_file(object, path, err);
    free(path);
    return rc;
}

static int copy_files(const char *config, const char *tokenizer_dir, const char *dir, struct err *err) {
    char *folder = tokenizer_dir ? mem_strdup(tokenizer_dir, err) : folder_of(config, err);
    int rc = folder ? copy_where_present(folder, "tokenizer.json", dir, err) : ERR_MEMORY;
    if (rc == OK)
        rc = copy_where_present(folder, "generation_config.json", dir, err);
    free(folder);
    return rc;
}

int init_model(const char *config_path, const char *tokenizer_dir, uint64_t seed, const char *dir, struct err *err) {
    struct model_config config = {0};
    json_t *object = NULL;
    double range = 0.02; /* of every supported type */
    int rc = json_read_object(config_path, MAX_CONFIG_BYTES, &object, err);
    if (rc == OK)
        rc = json_get_real(object, "initializer_range", 0, 100, &range, config_path, err);
    if (rc == OK)
        rc = model_config_parse(object, config_path, NULL, NULL, &config, err);
    if (rc == OK)
        rc = file_make_dirs(dir, err);
    if (rc == OK)
        rc = write_weights(&config, range, seed, dir, err);
    if (rc == OK)
        rc = copy_files(config_path, tokenizer_dir, dir, err);
    if (rc == OK)
        rc = write_config(object, dir, err);
    model_config_free(&config);
    json_decref(object);
    return rc;
}

/* --- what is added ---------------------------------------------------------------------------------------------------- */

static size_t predictor_width(const struct model_config *config, const struct schedule *s) {
    size_t quarter = (size_t)config->d_model / 4;
    if (s->predictor_kind == PREDICTOR_LINEAR)
        return (size_t)config->d_model;
    if (s->predictor_kind != PREDICTOR_TRUNK)
        return 0;
    return s->predictor_hidden > 0 ? (size_t)s->predictor_hidden : quarter > 16 ? quarter : 16;
}

static void plan_predictor_tensor(struct plan *plan, const struct model_tensor *t, const struct schedule *s) {
    double inputs = (double)t->n_cols;
    if (ends_with(t->name, ".fc1.weight") && s->predictor_kind == PREDICTOR_TRUNK)
        plan_add(plan, t, 0, 1 / sqrt(inputs));
    else if (ends_with(t->name, ".fc1.bias") && s->predictor_kind == PREDICTOR_TRUNK)
        plan_add(plan, t, 0, 0);
    else if (ends_with(t->name, ".fc2.weight") && t->n_cols > 0)
        plan_add(plan, t, 0, 0.1 / sqrt(inputs));
    else if (ends_with(t->name, ".fc2.bias"))
        plan_add(plan, t, s->start_bias, 0);
}

/* A low-rank update starts as nothing: B is zero. */
static void plan_lora_tensor(struct plan *plan, const struct model_tensor *t, const struct schedule *s) {
    bool first = ends_with(t->name, ".lora_A.weight");
    if (s->lora_targets == LORA_ALL || strstr(t->name, ".self_attn."))
        plan_add(plan, t, 0, first ? 1 / sqrt((double)t->n_cols) : 0);
}

static int write_added(const struct model_config *config, const struct schedule *s, const char *dir, struct err *err) {
    struct model model;
    struct plan plan = {0};
    int rc = empty_model(config, &model, err);
    if (rc == OK)
        rc = plan_create(model_n_tensors(&model), &plan, err);
    for (int l = 0; rc == OK && l < config->n_layers; l++)
        model.layers[l].predictor_hidden = predictor_width(config, s);
    model.lora_rank = (size_t)s->lora_r;
    for (size_t i = 0; rc == OK && i < model_n_tensors(&model); i++) {
        struct model_tensor t = model_tensor_at(&model, i);
        int layer;
        if (t.lora && s->trained == TRAIN_LORA)
            plan_lora_tensor(&plan, &t, s);
        if (t.predictor && schedule_gated(s) && sscanf(t.name, "model.layers.%d.", &layer) == 1 &&
            config->layers[layer].sliding_window == 0)
            plan_predictor_tensor(&plan, &t, s);
    }
    if (rc == OK)
        rc = plan_write(&plan, s->seed, dir, "spkv.safetensors", err);
    plan_free(&plan);
    free(model.layers);
    return rc;
}

int init_added(const struct model_config *config, const struct schedule *s, const char *dir, struct err *err) {
    struct predictor_config predictor = {.window = s->window, .threshold = s->threshold, .input = PREDICTOR_NORMED,
                                         .sigmoid = true, .lora_r = s->lora_r, .lora_alpha = schedule_lora_alpha(s),
                                         .act = s->predictor_kind == PREDICTOR_TRUNK ? s->predictor_activation : ACT_NONE};
    json_t *object = predictor_config_json(&predictor);
    char *path = file_join(dir, "spkv_config.json", err);
    int rc = path && object ? file_make_dirs(dir, err) : err_memory(err, "a predictor", 1024);
    if (rc == OK)
        rc = write_added(config, s, dir, err);
    if (rc == OK)
        rc = json_write_file(object, path, err);
    json_decref(object);
    free(path);
    return rc;
}
