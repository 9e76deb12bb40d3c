#include <string.h>

#include "base/json.h"
#include "engine/config.h"
#include "engine/config_reader.h"

struct choice {
    const char *name;
    int value;
};

static const struct choice comparisons[] = {{">=", false}, {">", true}};
static const struct choice inputs[] = {{"normed", PREDICTOR_NORMED}, {"residual", PREDICTOR_RESIDUAL}};
static const struct choice activations[] = {{"silu", ACT_SILU}, {"gelu", ACT_GELU}, {"none", ACT_NONE}};
static const struct choice outputs[] = {{"sigmoid", true}, {"identity", false}};

/* One of `n` names; an absent key leaves *out. */
static void read_choice(struct config_reader *r, const char *key, const struct choice *choices, size_t n, int *out) {
    const char *name = NULL;
    config_text(r, key, &name);
    if (r->rc != OK || !name)
        return;
    for (size_t i = 0; i < n; i++)
        if (strcmp(name, choices[i].name) == 0) {
            *out = choices[i].value;
            return;
        }
    config_refuse(r, "\"%s\" is \"%s\", expected %s%s%s%s%s", key, name, choices[0].name, n > 2 ? ", " : " or ",
                  choices[1].name, n > 2 ? " or " : "", n > 2 ? choices[2].name : "");
}

/* Low-rank updates are merged as W + lora_alpha / r B A: PEFT's other scalings and forms would give another model. */
static void read_lora(struct config_reader *r, struct predictor_config *out) {
    static const char *const unsupported[] = {"use_rslora", "use_dora", "fan_in_fan_out"};
    bool rank = json_has(r->object, "r"), used;
    if (!config_is_null(r, "r"))
        config_int(r, "r", 1, 1 << 20, &out->lora_r);
    if (rank && !json_has(r->object, "lora_alpha"))
        config_refuse(r, "\"r\" is given without \"lora_alpha\": give the scale of the low-rank updates too");
    if (rank)
        config_real(r, "lora_alpha", 0, 1e9, &out->lora_alpha);
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) {
        used = false;
        if (!config_is_null(r, unsupported[i]))
            config_bool(r, unsupported[i], &used);
        if (used)
            config_refuse(r, "\"%s\" is not supported: merge the low-rank updates into the weights with PEFT",
                          unsupported[i]);
    }
}

/* A history of any kind may stand there: only the one word is looked at. */
static bool is_fitted(const json_t *object) {
    const char *method = json_string_value(json_object_get(json_object_get(object, "trained_with"), "method"));
    return method && strcmp(method, PREDICTOR_FITTED) == 0;
}

int predictor_config_read(const json_t *object, const char *where, struct predictor_config *out, struct err *err) {
    struct config_reader r = {object, where, err, OK};
    int version = 1, strict = false, input = PREDICTOR_NORMED, act = ACT_SILU, sigmoid = true;
    *out = (struct predictor_config){.window = 128, .threshold = 0.5};
    config_int(&r, "format_version", 0, 1 << 30, &version);
    if (version != 1)
        config_refuse(&r, "\"format_version\" %d is not supported, this program reads 1: use a newer spkv", version);
    config_int(&r, "window", 1, 1 << 30, &out->window);
    config_real(&r, "threshold", -1e30, 1e30, &out->threshold);
    read_choice(&r, "comparison", comparisons, 2, &strict);
    read_choice(&r, "input", inputs, 2, &input);
    read_choice(&r, "activation", activations, 3, &act);
    read_choice(&r, "output", outputs, 2, &sigmoid);
    read_lora(&r, out);
    out->strict = strict;
    out->input = (enum predictor_input)input;
    out->act = (enum act)act;
    out->sigmoid = sigmoid;
    out->fitted = is_fitted(object);
    return r.rc;
}

static const char *choice_name(const struct choice *choices, size_t n, int value) {
    for (size_t i = 0; i < n; i++)
        if (choices[i].value == value)
            return choices[i].name;
    return NULL;
}

json_t *predictor_config_json(const struct predictor_config *c) {
    json_t *out = json_pack("{s:i, s:i, s:f, s:s, s:s, s:s, s:s}", "format_version", 1, "window", c->window, "threshold",
                            c->threshold, "comparison", choice_name(comparisons, 2, c->strict), "input",
                            choice_name(inputs, 2, (int)c->input), "activation", choice_name(activations, 3, (int)c->act),
                            "output", choice_name(outputs, 2, c->sigmoid));
    bool failed = !out;
    if (out && c->lora_r > 0)
        failed = json_object_set_new(out, "r", json_integer(c->lora_r)) != 0 ||
                 json_object_set_new(out, "lora_alpha", json_real(c->lora_alpha)) != 0;
    if (failed) {
        json_decref(out);
        out = NULL;
    }
    return out;
}
