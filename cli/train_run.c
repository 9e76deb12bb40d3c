#include "cli/train_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

enum { RUN_MAX_BYTES = 1 << 20 };

void train_run_free(struct train_run *run) {
    free(run->model);
    free(run->predictor);
    free(run->field);
    for (size_t i = 0; i < run->n_corpora; i++)
        free(run->corpora[i].path);
    for (size_t i = 0; i < run->n_held_out; i++)
        free(run->held_out[i]);
    *run = (struct train_run){0};
}

/* ---- writing --------------------------------------------------------------------------------------------------------- */

int train_run_write(const struct train_run *run, const char *out_dir, struct err *err) {
    char *path = file_join(out_dir, "run.json", err);
    json_t *corpora = json_array(), *held_out = json_array();
    for (size_t i = 0; i < run->n_corpora; i++)
        json_array_append_new(corpora, json_pack("{s:s, s:f}", "path", run->corpora[i].path, "share", run->corpora[i].share));
    for (size_t i = 0; i < run->n_held_out; i++)
        json_array_append_new(held_out, json_string(run->held_out[i]));
    json_t *root = json_pack("{s:s, s:i, s:s, s:s, s:s?, s:s, s:o, s:o, s:I, s:b, s:s?}", "format", "spkv-train", "version", 1,
                             "protocol", run->protocol, "model", run->model, "predictor", run->predictor, "dtype", run->dtype,
                             "corpora", corpora, "held_out", held_out, "eval_limit", (json_int_t)run->eval_limit,
                             "split_blank", run->split_blank, "field", run->field);
    int rc = !path ? ERR_MEMORY : root ? json_write_file(root, path, err) : err_memory(err, "run.json", SIZE_MAX);
    json_decref(root);
    free(path);
    return rc;
}

/* ---- reading --------------------------------------------------------------------------------------------------------- */

/* A required or optional string, copied; absent ones stay NULL. */
static int copy_string(const json_t *root, const char *key, bool required, char **out, const char *where, struct err *err) {
    const char *text = NULL;
    int rc = required ? json_require(root, key, where, err) : OK;
    if (rc == OK)
        rc = json_get_string(root, key, &text, where, err);
    if (rc == OK && text && !(*out = mem_strdup(text, err)))
        rc = ERR_MEMORY;
    return rc;
}

static int copy_word(const json_t *root, const char *key, char *out, size_t cap, const char *where, struct err *err) {
    const char *text = "";
    int rc = json_require(root, key, where, err);
    if (rc == OK)
        rc = json_get_string(root, key, &text, where, err);
    if (rc == OK && strlen(text) >= cap)
        rc = err_set(err, ERR_INPUT, where, "\"%s\": \"%.40s\" is too long", key, text);
    if (rc == OK)
        memcpy(out, text, strlen(text) + 1);
    return rc;
}

static int read_corpora(const json_t *root, struct train_run *run, const char *where, struct err *err) {
    json_t *list = NULL, *item;
    size_t i;
    int rc = json_get_array(root, "corpora", &list, where, err);
    if (rc == OK && (json_array_size(list) == 0 || json_array_size(list) > MAX_TRAIN_CORPORA))
        rc = err_set(err, ERR_INPUT, where, "\"corpora\" must name 1 to %d corpora", MAX_TRAIN_CORPORA);
    json_array_foreach(list, i, item) {
        struct train_corpus *c = &run->corpora[run->n_corpora];
        c->share = 1;
        if (rc == OK && !json_is_object(item))
            rc = err_set(err, ERR_INPUT, where, "\"corpora\" must hold objects of path and share");
        if (rc == OK && (rc = copy_string(item, "path", true, &c->path, where, err)) == OK)
            run->n_corpora++;
        if (rc == OK)
            rc = json_get_real(item, "share", 1e-9, 1e9, &c->share, where, err);
    }
    return rc;
}

static int read_held_out(const json_t *root, struct train_run *run, const char *where, struct err *err) {
    json_t *list = NULL, *item;
    size_t i;
    int rc = json_get_array(root, "held_out", &list, where, err);
    if (rc == OK && json_array_size(list) > MAX_TRAIN_CORPORA)
        rc = err_set(err, ERR_INPUT, where, "\"held_out\" names more than %d corpora", MAX_TRAIN_CORPORA);
    json_array_foreach(list, i, item) {
        if (rc == OK && !json_is_string(item))
            rc = err_set(err, ERR_INPUT, where, "\"held_out\" must hold paths");
        if (rc == OK && !(run->held_out[run->n_held_out] = mem_strdup(json_string_value(item), err)))
            rc = ERR_MEMORY;
        if (rc == OK)
            run->n_held_out++;
    }
    return rc;
}

static int read_object(const json_t *root, struct train_run *run, const char *where, struct err *err) {
    const char *format = "";
    int64_t limit = 0, version = 0;
    int rc = json_get_string(root, "format", &format, where, err);
    if (rc == OK && strcmp(format, "spkv-train") != 0)
        rc = err_set(err, ERR_INPUT, where, "is not the run.json of a training run");
    if (rc == OK)
        rc = json_get_int(root, "version", 1, 1, &version, where, err);
    if (rc == OK && (rc = copy_word(root, "protocol", run->protocol, sizeof run->protocol, where, err)) == OK &&
        (rc = copy_word(root, "dtype", run->dtype, sizeof run->dtype, where, err)) == OK &&
        (rc = copy_string(root, "model", true, &run->model, where, err)) == OK &&
        (rc = copy_string(root, "predictor", false, &run->predictor, where, err)) == OK &&
        (rc = copy_string(root, "field", false, &run->field, where, err)) == OK &&
        (rc = json_get_int(root, "eval_limit", 0, INT64_MAX, &limit, where, err)) == OK &&
        (rc = json_get_bool(root, "split_blank", &run->split_blank, where, err)) == OK &&
        (rc = read_corpora(root, run, where, err)) == OK)
        rc = read_held_out(root, run, where, err);
    run->eval_limit = (uint64_t)limit;
    return rc;
}

int train_run_read(const char *out_dir, struct train_run *out, struct err *err) {
    char *path = file_join(out_dir, "run.json", err);
    json_t *root = NULL;
    *out = (struct train_run){0};
    int rc = path ? json_read_object(path, RUN_MAX_BYTES, &root, err) : ERR_MEMORY;
    if (rc == OK)
        rc = read_object(root, out, path, err);
    if (rc != OK)
        train_run_free(out);
    json_decref(root);
    free(path);
    return rc;
}
