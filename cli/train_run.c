#include "cli/train_run.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

enum { MAX_BYTES = 64 << 20, VERSION = 1 };

/* A path as a JSON string, absolute; "-" stays. */
static int put_path(json_t *object, const char *key, const char *path, struct err *err) {
    char *absolute = realpath(path, NULL);
    if (!absolute)
        return err_errno(err, errno, path, "cannot be read");
    int failed = key ? json_object_set_new(object, key, json_string(absolute))
                     : json_array_append_new(object, json_string(absolute));
    if (failed)
        err_set(err, ERR_INPUT, path, "the path is not valid UTF-8 (rename it)");
    free(absolute);
    return failed ? ERR_INPUT : OK;
}

/* Splits "corpus.txt:0.3"; a file of that whole name wins. */
static int split_weight(const char *argument, char **path, double *weight, struct err *err) {
    const char *colon = strrchr(argument, ':');
    char *end = NULL;
    *weight = (double)NAN;
    if (colon && colon[1] && !file_exists(argument)) {
        *weight = strtod(colon + 1, &end);
        if (*end || !(*weight > 0) || !isfinite(*weight))
            return err_set(err, ERR_USAGE, argument, "\"%s\" is not a weight (a number above 0)", colon + 1);
    }
    *path = end ? mem_strndup(argument, (size_t)(colon - argument), err) : mem_strdup(argument, err);
    return *path ? OK : ERR_MEMORY;
}

static int put_corpus(json_t *array, const char *argument, struct err *err) {
    char *path = NULL;
    double weight;
    json_t *corpus = json_object();
    int rc = split_weight(argument, &path, &weight, err);
    if (rc == OK && strcmp(path, "-") == 0)
        rc = err_set(err, ERR_USAGE, "", "standard input cannot be read again by a resumed run: give a file");
    if (rc == OK)
        rc = put_path(corpus, "path", path, err);
    if (rc == OK && !isnan(weight))
        json_object_set_new(corpus, "weight", json_real(weight));
    if (rc == OK && json_array_append(array, corpus) != 0)
        rc = err_memory(err, "run.json", 1024);
    json_decref(corpus);
    free(path);
    return rc;
}

static int put_inputs(const struct train_options *o, json_t *object, struct err *err) {
    json_t *corpora = json_array(), *eval = json_array();
    int rc = put_path(object, "model", o->model, err);
    for (size_t i = 0; rc == OK && i < o->n_corpora; i++)
        rc = put_corpus(corpora, o->corpora[i], err);
    for (size_t i = 0; rc == OK && i < o->n_eval; i++)
        rc = put_path(eval, NULL, o->eval[i], err);
    if (rc == OK && o->tokenizer)
        rc = put_path(object, "tokenizer", o->tokenizer, err);
    if (json_object_set_new(object, "corpora", corpora) != 0 || json_object_set_new(object, "eval", eval) != 0)
        rc = rc == OK ? err_memory(err, "run.json", 1024) : rc;
    return rc;
}

static int check_choice(const char *key, const char *value, const char *const choices[3], const char *where,
                        struct err *err) {
    for (int i = 0; i < 3; i++)
        if (choices[i] && strcmp(value, choices[i]) == 0)
            return OK;
    return err_set(err, ERR_INPUT, where, "\"%s\" is \"%.100s\", expected %s, %s%s%s", key, value, choices[0], choices[1],
                   choices[2] ? ", " : "", choices[2] ? choices[2] : "");
}

/* The file may have been edited by hand. */
static int check_run(const struct train_run *run, const char *where, struct err *err) {
    const struct {
        const char *key, *value, *choices[3];
    } strings[] = {{"protocol", run->protocol, {"pretrain", "adapt"}}, {"dtype", run->dtype, {"bf16", "f32"}},
                   {"compute", run->compute, {"f32", "bf16"}}, {"backend", run->backend, {"auto", "ref", "cpu"}}};
    size_t i;
    const json_t *entry;
    int rc = OK;
    for (i = 0; rc == OK && i < sizeof strings / sizeof *strings; i++)
        rc = check_choice(strings[i].key, strings[i].value, strings[i].choices, where, err);
    json_array_foreach(run->corpora, i, entry)
        if (rc == OK && !json_is_string(json_object_get(entry, "path")))
            rc = err_set(err, ERR_INPUT, where, "entry %zu of \"corpora\" is no object with a \"path\"", i + 1);
    json_array_foreach(run->eval, i, entry)
        if (rc == OK && !json_is_string(entry))
            rc = err_set(err, ERR_INPUT, where, "entry %zu of \"eval\" is not a path", i + 1);
    return rc;
}

static int take(struct train_run *run, const char *where, struct err *err) {
    const json_t *o = run->object;
    const char *schema = "";
    int64_t version = 0;
    int rc = json_get_string(o, "schema", &schema, where, err);
    if (rc == OK && strcmp(schema, "spkv-train") != 0)
        rc = err_set(err, ERR_INPUT, where, "\"schema\" is \"%s\", expected \"spkv-train\"", schema);
    if (rc == OK)
        rc = json_get_int(o, "version", VERSION, VERSION, &version, where, err);
    const struct {
        const char *key;
        const char **value;
        bool required;
    } strings[] = {{"protocol", &run->protocol, true}, {"model", &run->model, true}, {"dtype", &run->dtype, true},
                   {"compute", &run->compute, true}, {"backend", &run->backend, true},
                   {"tokenizer", &run->tokenizer, false}, {"field", &run->field, false}};
    for (size_t i = 0; rc == OK && i < sizeof strings / sizeof *strings; i++)
        if (!strings[i].required || (rc = json_require(o, strings[i].key, where, err)) == OK)
            rc = json_get_string(o, strings[i].key, strings[i].value, where, err);
    if (rc == OK && (rc = json_require(o, "corpora", where, err)) == OK)
        rc = json_get_array(o, "corpora", &run->corpora, where, err);
    if (rc == OK)
        rc = json_get_array(o, "eval", &run->eval, where, err);
    if (rc == OK)
        rc = json_get_int(o, "eval_sequences", 0, INT64_MAX, &run->eval_sequences, where, err);
    if (rc == OK)
        rc = json_get_int(o, "threads", 0, 1024, &run->threads, where, err);
    if (rc == OK)
        rc = json_get_bool(o, "split_blank", &run->split_blank, where, err);
    if (rc == OK)
        rc = json_get_bool(o, "new_predictor", &run->new_predictor, where, err);
    return rc == OK ? check_run(run, where, err) : rc;
}

int train_run_make(const struct train_options *o, const char *command, struct train_run *run, struct err *err) {
    *run = (struct train_run){0};
    run->object = json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:s?, s:I, s:i, s:b, s:b, s:s}", "schema", "spkv-train",
                            "version", VERSION, "protocol", protocol_name(o->protocol), "dtype", o->dtype, "compute",
                            o->compute, "backend", o->backend, "field", o->field, "eval_sequences",
                            (json_int_t)o->eval_sequences, "threads", o->threads, "split_blank", o->split_blank,
                            "new_predictor", o->new_predictor, "command", command);
    if (!run->object)
        return err_set(err, ERR_INPUT, "", "the command line is not valid UTF-8");
    int rc = put_inputs(o, run->object, err);
    if (rc == OK)
        rc = take(run, "", err);
    if (rc != OK)
        train_run_free(run);
    return rc;
}

int train_run_read(const char *out_dir, struct train_run *run, struct err *err) {
    char *path = file_join(out_dir, "run.json", err);
    int rc = path ? OK : ERR_MEMORY;
    *run = (struct train_run){0};
    if (rc == OK && !file_exists(path))
        rc = err_set(err, ERR_INPUT, out_dir, "there is no training run here (run.json is missing)");
    if (rc == OK)
        rc = json_read_object(path, MAX_BYTES, &run->object, err);
    if (rc == OK)
        rc = take(run, path, err);
    if (rc != OK)
        train_run_free(run);
    free(path);
    return rc;
}

int train_run_write(const struct train_run *run, const char *out_dir, struct err *err) {
    char *path = file_join(out_dir, "run.json", err);
    int rc = path ? json_write_file(run->object, path, err) : ERR_MEMORY;
    free(path);
    return rc;
}

void train_run_free(struct train_run *run) {
    json_decref(run->object);
    *run = (struct train_run){0};
}
