#include "train/state.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "train/recipe.h"
#include "train/state_internal.h"

#define TEMPORARY "checkpoint.tmp-"

enum { MAX_CONFIG_BYTES = 16 << 20, BLOCK_ITEMS = 1 << 16 };

/* --- tensors out ------------------------------------------------------------------------------------------------------ */

/* One device array, a block at a time. */
static int write_array(struct safetensors_writer *w, const struct model *m, const float *array, size_t n, float *block,
                       struct err *err) {
    int rc = OK;
    for (size_t at = 0; rc == OK && at < n; at += BLOCK_ITEMS) {
        size_t count = n - at < BLOCK_ITEMS ? n - at : BLOCK_ITEMS;
        m->ops->download(m->dev, block, array + at, count * sizeof *block);
        if ((rc = m->ops->sync(m->dev, err)) == OK)
            rc = safetensors_writer_put(w, block, count, err);
    }
    return rc;
}

float *state_part(const struct param *p, int part) {
    return part == 0 ? p->master : part == 1 ? p->m : p->v;
}

static void plan_param(const struct param *p, enum dtype dtype, const char *name, struct tensor_plan *out) {
    *out = (struct tensor_plan){.name = name, .dtype = dtype, .n_dims = p->n_rows > 0 ? 2 : 1};
    out->shape[0] = p->n_rows > 0 ? p->n_rows : p->n_cols;
    out->shape[1] = p->n_rows > 0 ? p->n_cols : 0;
}

void state_plan_part(const struct param *p, int part, char name[STATE_NAME_BYTES], struct tensor_plan *out) {
    static const char *const parts[STATE_PARTS] = {"master", "m", "v"};
    snprintf(name, STATE_NAME_BYTES, "%s.%s", p->name, parts[part]);
    plan_param(p, DTYPE_F32, name, out);
}

/* A file of arrays of parameters. */
struct array_file {
    size_t n;
    struct tensor_plan *plans;        /* (n) */
    char (*names)[STATE_NAME_BYTES];  /* (n), where they are not the parameters' own */
    const float **arrays;             /* (n) device */
    size_t *n_items;                  /* (n) */
};

static int array_file_create(size_t n_max, struct array_file *f, struct err *err) {
    *f = (struct array_file){.plans = mem_alloc(n_max, sizeof *f->plans, "tensors", err),
                             .names = mem_alloc(n_max, sizeof *f->names, "tensor names", err),
                             .arrays = mem_alloc(n_max, sizeof *f->arrays, "tensors", err),
                             .n_items = mem_alloc(n_max, sizeof *f->n_items, "tensors", err)};
    return f->plans && f->names && f->arrays && f->n_items ? OK : ERR_MEMORY;
}

static void array_file_free(struct array_file *f) {
    free(f->plans);
    free(f->names);
    free(f->arrays);
    free(f->n_items);
}

static int array_file_write(const struct array_file *f, const struct model *m, const char *dir, const char *name,
                            struct err *err) {
    static const struct tensor_note format = {"format", "pt"};
    struct safetensors_writer w = {0};
    float *block = mem_alloc(BLOCK_ITEMS, sizeof *block, "a block of a tensor", err);
    char *path = file_join(dir, name, err);
    int rc = block && path ? safetensors_writer_open(path, f->plans, f->n, &format, 1, &w, err) : ERR_MEMORY;
    for (size_t i = 0; rc == OK && i < f->n; i++)
        rc = write_array(&w, m, f->arrays[i], f->n_items[i], block, err);
    if (rc == OK)
        rc = safetensors_writer_commit(&w, err);
    safetensors_writer_discard(&w);
    free(path);
    free(block);
    return rc;
}

static int write_masters(const struct params *params, enum dtype dtype, const char *dir, const char *name, struct err *err) {
    struct array_file f;
    int rc = array_file_create(params->n, &f, err);
    for (size_t i = 0; rc == OK && i < params->n; i++, f.n++) {
        const struct param *p = &params->list[i];
        plan_param(p, dtype, p->name, &f.plans[i]);
        f.arrays[i] = p->master;
        f.n_items[i] = p->n;
    }
    if (rc == OK)
        rc = array_file_write(&f, params->model, dir, name, err);
    array_file_free(&f);
    return rc;
}

static int write_state_tensors(const struct params *params, const char *dir, struct err *err) {
    struct array_file f;
    int rc = array_file_create(params->n * STATE_PARTS, &f, err);
    for (size_t i = 0; rc == OK && i < params->n; i++)
        for (int part = 0; part < STATE_PARTS; part++, f.n++) {
            state_plan_part(&params->list[i], part, f.names[f.n], &f.plans[f.n]);
            f.arrays[f.n] = state_part(&params->list[i], part);
            f.n_items[f.n] = params->list[i].n;
        }
    if (rc == OK)
        rc = array_file_write(&f, params->model, dir, STATE_TENSORS, err);
    array_file_free(&f);
    return rc;
}

/* --- configuration out ------------------------------------------------------------------------------------------------ */

/* The model itself is frozen: what is trained was added to it, and is saved apart. */
static bool only_added(const struct state_save *save) {
    return save->schedule->trained != TRAIN_ALL;
}

static json_t *trained_with(const struct state_save *save) {
    const struct progress_state *p = save->progress;
    const char *method = save->schedule->target == TARGET_ORACLE ? PREDICTOR_FITTED : NULL;
    return json_pack("{s:s, s:s*, s:I, s:I, s:I, s:o, s:s, s:s}", "protocol", save->protocol, "method", method, "steps",
                     (json_int_t)p->step, "planned_steps", (json_int_t)save->schedule->steps, "tokens", (json_int_t)p->n_tok,
                     "deviations", recipe_deviations(save->schedule, p->n_tok), "commit", save->commit, "version",
                     save->version);
}

/* The "spkv" object: the configuration of what was added, with the window and threshold it was trained for. */
static json_t *added_object(const struct state_save *save) {
    struct predictor_config config = *checkpoint_added(save->source);
    if (save->schedule->trained != TRAIN_LORA)
        config.lora_r = 0; /* low-rank updates were merged when the model was loaded */
    if (schedule_gated(save->schedule)) {
        config.window = save->schedule->window;
        config.threshold = save->schedule->threshold;
    }
    json_t *object = predictor_config_json(&config);
    if (object && json_object_set_new(object, "trained_with", trained_with(save)) != 0) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static int write_json(json_t *object, const char *dir, const char *name, struct err *err) {
    char *path = file_join(dir, name, err);
    int rc = path ? json_write_file(object, path, err) : ERR_MEMORY;
    free(path);
    return rc;
}

static int write_added_config(const struct state_save *save, const char *dir, struct err *err) {
    json_t *object = added_object(save);
    bool failed = !object ||
                  json_object_set_new(object, "base_model_name_or_path", json_string(checkpoint_dir(save->source))) != 0 ||
                  json_object_set_new(object, "base_model_hash", json_string(checkpoint_base_hash(save->source))) != 0;
    int rc = failed ? err_memory(err, "spkv_config.json", 4096) : write_json(object, dir, "spkv_config.json", err);
    json_decref(object);
    return rc;
}

/* The source's config.json with what changed. */
static int write_config(const struct state_save *save, const char *dir, struct err *err) {
    bool has_predictor = save->params->model->predictor != NULL;
    char *path = file_join(checkpoint_dir(save->source), "config.json", err);
    json_t *config = NULL;
    int rc = path ? json_read_object(path, MAX_CONFIG_BYTES, &config, err) : ERR_MEMORY;
    if (rc == OK) {
        json_object_del(config, "torch_dtype"); /* the older name of "dtype" */
        if (json_object_set_new(config, "dtype", json_string(save->dtype == DTYPE_BF16 ? "bfloat16" : "float32")) != 0 ||
            json_object_set_new(config, has_predictor ? "spkv" : "trained_with",
                                has_predictor ? added_object(save) : trained_with(save)) != 0)
            rc = err_memory(err, "config.json", 4096);
    }
    if (rc == OK)
        rc = write_json(config, dir, "config.json", err);
    json_decref(config);
    free(path);
    return rc;
}

static int copy_companions(const char *from_dir, const char *to_dir, struct err *err) {
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                        "chat_template.jinja", "generation_config.json"};
    int rc = OK;
    for (size_t i = 0; rc == OK && i < sizeof names / sizeof *names; i++) {
        char *from = file_join(from_dir, names[i], err), *to = file_join(to_dir, names[i], err);
        if (!from || !to)
            rc = ERR_MEMORY;
        else if (file_exists(from))
            rc = file_copy(from, to, err);
        free(from);
        free(to);
    }
    return rc;
}

/* --- saving ----------------------------------------------------------------------------------------------------------- */

static int write_state_json(const struct state_save *save, const char *dir, struct err *err) {
    struct saved_run run = {.schedule = *save->schedule, .progress = *save->progress};
    if (only_added(save))
        snprintf(run.base_hash, sizeof run.base_hash, "%s", checkpoint_base_hash(save->source));
    json_t *object = saved_run_json(&run);
    int rc = object ? write_json(object, dir, STATE_JSON, err) : err_memory(err, STATE_JSON, 4096);
    json_decref(object);
    return rc;
}

static int write_all(const struct state_save *save, const char *dir, struct err *err) {
    const char *name = only_added(save) ? "spkv.safetensors" : "model.safetensors";
    int rc = write_masters(save->params, save->dtype, dir, name, err);
    if (rc == OK)
        rc = only_added(save) ? write_added_config(save, dir, err) : write_config(save, dir, err);
    if (rc == OK && !only_added(save))
        rc = copy_companions(checkpoint_dir(save->source), dir, err);
    if (rc == OK)
        rc = write_state_tensors(save->params, dir, err);
    return rc == OK ? write_state_json(save, dir, err) : rc;
}

/* A new directory OUT/checkpoint.tmp-XXXXXX, with the rights of any other; free its name. */
static int make_temporary(const char *out_dir, char **out, struct err *err) {
    int rc = file_make_dirs(out_dir, err);
    char *path = rc == OK ? file_join(out_dir, TEMPORARY "XXXXXX", err) : NULL;
    *out = NULL;
    if (!path)
        return rc == OK ? ERR_MEMORY : rc;
    mode_t mask = umask(0);
    umask(mask);
    if (!mkdtemp(path) || chmod(path, 0777 & ~mask) != 0) {
        rc = err_errno(err, errno, path, "cannot make a directory for the checkpoint");
        free(path);
        return rc;
    }
    *out = path;
    return OK;
}

/* A saved predictor takes the place of all added tensors, low-rank updates too, under which it was trained. */
static int refuse_low_rank(const struct state_save *save, struct err *err) {
    if (save->schedule->trained != TRAIN_PREDICTOR || checkpoint_added(save->source)->lora_r == 0)
        return OK;
    return err_set(err, ERR_INPUT, checkpoint_dir(save->source), "the model has low-rank updates, which a predictor saved "
                                                                 "alone would lose: merge them into the weights first");
}

int state_save(const struct state_save *save, struct err *err) {
    char *temporary = NULL, *path = file_join(save->out_dir, "checkpoint", err);
    int rc = path ? refuse_low_rank(save, err) : ERR_MEMORY;
    ASSERT(real_size(save->params->model->ops, save->params->model->dev) == 4);
    if (rc == OK)
        rc = make_temporary(save->out_dir, &temporary, err);
    if (rc == OK)
        rc = write_all(save, temporary, err);
    if (rc == OK)
        rc = file_publish_dir(temporary, path, err);
    int removed = temporary ? file_remove_tree(temporary, rc == OK ? err : NULL) : OK;
    if (rc == OK)
        rc = removed;
    free(temporary);
    free(path);
    return rc;
}

/* --- leftovers -------------------------------------------------------------------------------------------------------- */

static int remove_temporaries(const char *out_dir, struct err *err) {
    DIR *dir = opendir(out_dir);
    const struct dirent *entry;
    int rc = OK;
    while (dir && rc == OK && (entry = readdir(dir))) {
        if (strncmp(entry->d_name, TEMPORARY, strlen(TEMPORARY)) != 0)
            continue;
        char *path = file_join(out_dir, entry->d_name, err);
        rc = path ? file_remove_tree(path, err) : ERR_MEMORY;
        free(path);
    }
    if (dir)
        closedir(dir);
    return rc;
}

int state_clean(const char *out_dir, struct err *err) {
    char *path = file_join(out_dir, "checkpoint", err);
    int rc = path ? file_restore_dir(path, err) : ERR_MEMORY;
    free(path);
    return rc == OK ? remove_temporaries(out_dir, err) : rc;
}
