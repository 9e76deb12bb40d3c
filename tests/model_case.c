#include "tests/model_case.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "tests/must.h"

#define CASES "tests/data/models"

static int by_name(const void *a, const void *b) {
    return strcmp(a, b);
}

int model_case_list(char names[][64], int cap) {
    DIR *dir = opendir(CASES);
    struct dirent *entry;
    int n = 0;
    while (dir && n < cap && (entry = readdir(dir)))
        if (entry->d_name[0] != '.' && strlen(entry->d_name) < 64)
            strcpy(names[n++], entry->d_name);
    if (dir)
        closedir(dir);
    qsort(names, (size_t)n, 64, by_name);
    return n;
}

static void read_sequences(struct model_case *model) {
    json_t *list = json_object_get(model->json, "sequences");
    model->n_sequences = (int)json_array_size(list);
    assert_in_range(model->n_sequences, 1, CASE_MAX_SEQUENCES);
    for (int i = 0; i < model->n_sequences; i++) {
        struct case_sequence *s = &model->sequences[i];
        json_t *item = json_array_get(list, (size_t)i), *tokens = json_object_get(item, "tokens"),
               *rows = json_object_get(item, "logit_rows");
        s->n_tok = (int)json_array_size(tokens);
        s->n_logit_rows = (int)json_array_size(rows);
        assert_in_range(s->n_tok, 1, CASE_MAX_TOKENS);
        for (int t = 0; t < s->n_tok; t++)
            s->tokens[t] = (int32_t)json_integer_value(json_array_get(tokens, (size_t)t));
        for (int r = 0; r < s->n_logit_rows; r++)
            s->logit_rows[r] = (int)json_integer_value(json_array_get(rows, (size_t)r));
    }
}

void model_case_open(const char *name, struct model_case *model) {
    char path[512], predictor[512];
    struct err err = {0};
    memset(model, 0, sizeof *model);
    snprintf(model->dir, sizeof model->dir, CASES "/%s", name);
    snprintf(path, sizeof path, "%s/case.json", model->dir);
    must(json_read_object(path, 1 << 24, &model->json, &err), &err);
    const char *own = json_string_value(json_object_get(model->json, "predictor"));
    const char *placement = json_string_value(json_object_get(model->json, "placement"));
    snprintf(predictor, sizeof predictor, "%s/%s", model->dir, own ? own : "");
    bool apart = own && placement && strcmp(placement, "own") == 0;
    must(checkpoint_open(model->dir, apart ? predictor : NULL, &model->checkpoint, &err), &err);
    snprintf(path, sizeof path, "%s/expected.safetensors", model->dir);
    must(safetensors_open(path, &model->expected, &err), &err);
    read_sequences(model);
}

void model_case_close(struct model_case *model) {
    safetensors_close(&model->expected);
    checkpoint_close(model->checkpoint);
    json_decref(model->json);
}

struct layout_request {
    const struct model_case *model;
    json_t *policy;
};

/* Stands in for reading a layout file. */
static int load_layout(void *self, const char *path, struct policy_layout *out, struct err *err) {
    const struct layout_request *request = self;
    const struct model_config *c = checkpoint_config(request->model->checkpoint);
    json_t *heads = json_object_get(request->policy, "heads"), *windows = json_object_get(request->policy, "windows");
    size_t n = (size_t)c->n_layers * (size_t)c->n_kv_heads;
    (void)path, (void)err;
    *out = (struct policy_layout){.global = calloc(n, sizeof(bool)), .window = calloc(n, sizeof(int))};
    out->base_window = (int)json_integer_value(json_object_get(request->policy, "window"));
    out->sinks = (int)json_integer_value(json_object_get(request->policy, "sinks"));
    for (size_t i = 0; i < n; i++) {
        size_t l = i / (size_t)c->n_kv_heads, h = i % (size_t)c->n_kv_heads;
        json_t *own = json_array_get(json_array_get(windows, l), h);
        out->global[i] = strcmp(json_string_value(json_array_get(json_array_get(heads, l), h)), "global") == 0;
        out->window[i] = windows ? (int)json_integer_value(own) : out->base_window;
    }
    return OK;
}

struct policy *model_case_policy(const struct model_case *model, const char *name) {
    json_t *p = json_object_get(json_object_get(model->json, "policies"), name);
    const char *kind = json_string_value(json_object_get(p, "policy"));
    struct layout_request request = {model, p};
    struct policy_request r = {
        .model = checkpoint_config(model->checkpoint), .predictor = checkpoint_predictor(model->checkpoint),
        .window = (int)json_integer_value(json_object_get(p, "window")),
        .sinks = (int)json_integer_value(json_object_get(p, "sinks")),
        .threshold = json_object_get(p, "threshold") ? json_number_value(json_object_get(p, "threshold")) : (double)NAN,
        .seed = (uint64_t)json_integer_value(json_object_get(p, "seed")), .load_layout = load_layout, .self = &request};
    char spec[128];
    struct policy *policy;
    struct err err = {0};
    snprintf(spec, sizeof spec, "%s", kind);
    if (strcmp(kind, "random") == 0)
        snprintf(spec, sizeof spec, "random:density=%.17g", json_number_value(json_object_get(p, "density")));
    if (strcmp(kind, "layout") == 0)
        snprintf(spec, sizeof spec, "layout:file=case");
    must(policy_create(spec, &r, &policy, &err), &err);
    return policy;
}

const struct tensor *model_case_expected(const struct model_case *model, int sequence, const char *policy,
                                         const char *what) {
    char name[128];
    snprintf(name, sizeof name, "seq%d.%s.%s", sequence, policy, what);
    return safetensors_find(&model->expected, name);
}
