#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "train/state_internal.h"

enum { STATE_VERSION = 1, MAX_STATE_BYTES = 1 << 20 };

static json_t *progress_json(const struct progress_state *p) {
    return json_pack("{s:I, s:I, s:I, s:I, s:s, s:f, s:f, s:I}", "step", (json_int_t)p->step, "tokens", (json_int_t)p->n_tok,
                     "data_epoch", (json_int_t)p->data_epoch, "data_next", (json_int_t)p->data_next, "data_hash",
                     p->data_hash, "density_factor", p->control.factor, "density_sum", p->control.sum, "density_steps",
                     (json_int_t)p->control.n_steps);
}

static int progress_parse(const json_t *object, int64_t n_steps, const char *where, struct progress_state *p,
                          struct err *err) {
    static const char *const keys[] = {"step",      "tokens",         "data_epoch",  "data_next",
                                       "data_hash", "density_factor", "density_sum", "density_steps"};
    int64_t n_tok = 0, epoch = 0, next = 0;
    const char *hash = "";
    int rc = OK;
    *p = (struct progress_state){0};
    for (size_t i = 0; rc == OK && i < sizeof keys / sizeof *keys; i++)
        rc = json_require(object, keys[i], where, err);
    if (rc != OK || (rc = json_get_int(object, "step", 0, n_steps, &p->step, where, err)) != OK ||
        (rc = json_get_int(object, "tokens", 0, INT64_MAX, &n_tok, where, err)) != OK ||
        (rc = json_get_int(object, "data_epoch", 0, INT64_MAX, &epoch, where, err)) != OK ||
        (rc = json_get_int(object, "data_next", 0, INT64_MAX, &next, where, err)) != OK ||
        (rc = json_get_string(object, "data_hash", &hash, where, err)) != OK ||
        (rc = json_get_real(object, "density_factor", 0.009, 101, &p->control.factor, where, err)) != OK ||
        (rc = json_get_real(object, "density_sum", -1e12, 1e12, &p->control.sum, where, err)) != OK ||
        (rc = json_get_int(object, "density_steps", 0, INT64_MAX, &p->control.n_steps, where, err)) != OK)
        return rc;
    p->n_tok = (uint64_t)n_tok;
    p->data_epoch = (uint64_t)epoch;
    p->data_next = (uint64_t)next;
    snprintf(p->data_hash, sizeof p->data_hash, "%s", hash);
    return OK;
}

json_t *saved_run_json(const struct saved_run *run) {
    struct str text = {0};
    schedule_format(&run->schedule, &text);
    json_t *schedule = text.failed ? NULL : json_loadb(str_text(&text), text.len, 0, NULL);
    json_t *progress = progress_json(&run->progress), *out = NULL;
    if (schedule && progress)
        out = json_pack("{s:s, s:i, s:s, s:O, s:O}", "format", "spkv-training-state", "version", STATE_VERSION,
                        "base_model_hash", run->base_hash, "progress", progress, "schedule", schedule);
    json_decref(schedule);
    json_decref(progress);
    str_free(&text);
    return out;
}

static int parse_run(json_t *object, const char *where, struct saved_run *out, struct err *err) {
    static const char *const keys[] = {"format", "version", "base_model_hash", "progress", "schedule"};
    json_t *progress = NULL, *schedule = NULL;
    const char *hash = "", *format = "";
    int64_t version = 0;
    int rc = OK;
    for (size_t i = 0; rc == OK && i < sizeof keys / sizeof *keys; i++)
        rc = json_require(object, keys[i], where, err);
    if (rc != OK || (rc = json_get_string(object, "format", &format, where, err)) != OK ||
        (rc = json_get_int(object, "version", 0, 1 << 30, &version, where, err)) != OK ||
        (rc = json_get_string(object, "base_model_hash", &hash, where, err)) != OK ||
        (rc = json_get_object(object, "progress", &progress, where, err)) != OK ||
        (rc = json_get_object(object, "schedule", &schedule, where, err)) != OK)
        return rc;
    if (strcmp(format, "spkv-training-state") != 0 || version != STATE_VERSION)
        return err_set(err, ERR_INPUT, where, "\"format\" \"%.100s\", version %lld is not supported, this program reads "
                                              "spkv-training-state, version %d: use the program that saved it", format,
                       (long long)version, STATE_VERSION);
    snprintf(out->base_hash, sizeof out->base_hash, "%s", hash);
    char *text = json_dumps(schedule, 0);
    out->schedule = schedule_default();
    rc = text ? schedule_parse(text, strlen(text), where, &out->schedule, err) : err_memory(err, "a schedule", 4096);
    free(text);
    if (rc == OK && (rc = schedule_check(&out->schedule, where, err)) == OK)
        rc = progress_parse(progress, out->schedule.steps, where, &out->progress, err);
    return rc;
}

int saved_run_read(const char *path, struct saved_run *out, struct err *err) {
    json_t *object = NULL;
    int rc = json_read_object(path, MAX_STATE_BYTES, &object, err);
    if (rc == OK)
        rc = parse_run(object, path, out, err);
    json_decref(object);
    return rc;
}
