#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "kernels/train_ops.h"
#include "train/state_internal.h"

static char *state_path(const char *out_dir, const char *name, struct err *err) {
    struct str path = {0};
    str_printf(&path, "%s/checkpoint/%s", out_dir, name);
    if (path.failed) {
        err_memory(err, "a path", strlen(out_dir));
        str_free(&path);
    }
    return path.data;
}

int state_find(const char *out_dir, bool *found, struct err *err) {
    char *checkpoint = file_join(out_dir, "checkpoint", err), *state = state_path(out_dir, STATE_JSON, err);
    int rc = checkpoint && state ? OK : ERR_MEMORY;
    *found = rc == OK && file_exists(checkpoint);
    if (*found && !file_exists(state))
        rc = err_set(err, ERR_INPUT, checkpoint, "there is no " STATE_JSON " here: the run cannot go on, and a new start "
                                                 "would replace the weights. Put the file back, or adapt the checkpoint in "
                                                 "another directory");
    free(checkpoint);
    free(state);
    return rc;
}

static int read_saved(const char *out_dir, struct saved_run *out, struct err *err) {
    char *path = state_path(out_dir, STATE_JSON, err);
    int rc = path ? saved_run_read(path, out, err) : ERR_MEMORY;
    free(path);
    return rc;
}

static int check_schedule(const struct saved_run *saved, const struct schedule *schedule, const char *out_dir,
                          struct err *err) {
    const char *key = schedule_difference(&saved->schedule, schedule, false);
    struct str had = {0}, has = {0};
    if (!key)
        return OK;
    schedule_format_value(&saved->schedule, key, &had);
    schedule_format_value(schedule, key, &has);
    err_set(err, ERR_INPUT, out_dir, "the saved run has \"%s\" %s, this one %s: resume it with its own schedule, or give "
                                     "another output directory", key, str_text(&had), str_text(&has));
    str_free(&had);
    str_free(&has);
    return ERR_INPUT;
}

static int find_array(const struct safetensors *file, const struct param *p, int part, const struct tensor **out,
                      struct err *err) {
    struct tensor_plan plan;
    struct tensor wanted = {0};
    char name[STATE_NAME_BYTES], had[192], has[192];
    state_plan_part(p, part, name, &plan);
    const struct tensor *t = safetensors_find(file, name);
    if (!t)
        return err_set(err, ERR_INPUT, file->path, "tensor %s is missing: the saved run is of another model", name);
    if (t->dtype != DTYPE_F32 || t->n_dims != plan.n_dims || t->n_items != p->n || t->shape[0] != plan.shape[0]) {
        wanted.n_dims = plan.n_dims;
        memcpy(wanted.shape, plan.shape, sizeof wanted.shape);
        tensor_format_shape(t, had, sizeof had);
        tensor_format_shape(&wanted, has, sizeof has);
        return err_set(err, ERR_INPUT, file->path, "tensor %s is %s %s, expected f32 %s: the saved run is of another model",
                       name, dtype_name(t->dtype), had, has);
    }
    *out = t;
    return tensor_check_finite(t, err);
}

/* Tensors of the file that no parameter has: as many as are too many. */
static int refuse_surplus(const struct safetensors *file, const struct params *params, struct err *err) {
    for (size_t i = 0; i < file->n_tensors; i++) {
        const char *name = file->tensors[i].name, *dot = strrchr(name, '.');
        char *owner = mem_strndup(name, dot ? (size_t)(dot - name) : 0, err);
        bool known = owner && params_find(params, owner);
        if (!owner)
            return ERR_MEMORY;
        free(owner);
        if (!known)
            return err_set(err, ERR_INPUT, file->path, "tensor %s is not trained in this run: the saved run is of another "
                                                       "model, or trained more of it", name);
    }
    return err_set(err, ERR_INPUT, file->path, "%zu tensors for %zu parameters: the saved run is of another model",
                   file->n_tensors, params->n);
}

static int restore_arrays(const struct safetensors *file, struct params *params, struct err *err) {
    const struct model *m = params->model;
    const struct tensor *t = NULL;
    int rc = OK;
    for (size_t i = 0; rc == OK && i < params->n; i++) {
        const struct param *p = &params->list[i];
        for (int part = 0; rc == OK && part < STATE_PARTS; part++)
            if ((rc = find_array(file, p, part, &t, err)) == OK) {
                m->ops->upload(m->dev, state_part(p, part), t->data, p->n * sizeof(float));
                file_map_drop(t->data, p->n * sizeof(float));
            }
        if (rc == OK && p->weight)
            m->ops->train->weight_refresh(m->dev, p->weight);
    }
    return rc == OK ? m->ops->sync(m->dev, err) : rc;
}

static int restore(const char *out_dir, struct params *params, struct err *err) {
    struct safetensors file = {0};
    char *path = state_path(out_dir, STATE_TENSORS, err);
    int rc = path ? safetensors_open(path, &file, err) : ERR_MEMORY;
    if (rc == OK && file.n_tensors > STATE_PARTS * params->n)
        rc = refuse_surplus(&file, params, err);
    if (rc == OK)
        rc = restore_arrays(&file, params, err);
    safetensors_close(&file);
    free(path);
    return rc;
}

int state_load(const char *out_dir, struct checkpoint *source, struct params *params, const struct schedule *schedule,
               struct progress_state *progress, struct err *err) {
    struct saved_run saved;
    int rc = read_saved(out_dir, &saved, err);
    ASSERT(real_size(params->model->ops, params->model->dev) == 4);
    if (rc != OK || (rc = check_schedule(&saved, schedule, out_dir, err)) != OK)
        return rc;
    if (saved.base_hash[0] && strcmp(saved.base_hash, checkpoint_base_hash(source)) != 0)
        return err_set(err, ERR_INPUT, out_dir, "the saved run trained additions to a model with base_model_hash %s, "
                                                "but %s has %s: resume it with its own model", saved.base_hash,
                       checkpoint_dir(source), checkpoint_base_hash(source));
    if ((rc = restore(out_dir, params, err)) == OK)
        *progress = saved.progress;
    return rc;
}
