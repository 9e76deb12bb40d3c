#include "train/schedule.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

enum {
    MAX_STEPS = 1000000000,
    MAX_FILE_BYTES = 1 << 20,
};

enum field_type { FIELD_INT, FIELD_REAL, FIELD_BOOL, FIELD_CHOICE, FIELD_TEXT };

/* A name and the enum constant it stands for. */
struct choice {
    const char *name;
    int value;
};

static const struct choice trained_choices[] = {{"all", TRAIN_ALL},
                                                {"predictor", TRAIN_PREDICTOR},
                                                {"lora", TRAIN_LORA},
                                                {0}};
static const struct choice target_choices[] = {{"attention", LORA_ATTENTION}, {"all", LORA_ALL}, {0}};
static const struct choice learned_choices[] = {{"loss", TARGET_LOSS}, {"oracle", TARGET_ORACLE}, {0}};
static const struct choice kind_choices[] = {{"trunk", PREDICTOR_TRUNK},
                                             {"linear", PREDICTOR_LINEAR},
                                             {"static", PREDICTOR_STATIC},
                                             {"static-layer", PREDICTOR_STATIC_LAYER},
                                             {0}};
static const struct choice activation_choices[] = {{"silu", ACT_SILU}, {"gelu", ACT_GELU}, {0}};
static const struct choice gates_choices[] = {{"soft", GATES_SOFT}, {"sampled", GATES_SAMPLED}, {0}};

/* A key of the file and the member of struct schedule it fills. */
struct field {
    struct schedule_key key;
    enum field_type type;
    size_t offset, size;
    double min, max;              /* numbers */
    const struct choice *choices; /* ended by a name NULL */
};

#define PLACE(member) .offset = offsetof(struct schedule, member), .size = sizeof((struct schedule *)0)->member
#define INT(member, lo, hi, text) \
    {.key = {#member, text, false}, .type = FIELD_INT, PLACE(member), .min = (lo), .max = (hi)}
#define REAL(member, lo, hi, text) \
    {.key = {#member, text, false}, .type = FIELD_REAL, PLACE(member), .min = (lo), .max = (hi)}
#define CHOICE(member, list, text) \
    {.key = {#member, text, false}, .type = FIELD_CHOICE, PLACE(member), .choices = (list)}
#define FLAG(member, text) {.key = {#member, text, true}, .type = FIELD_BOOL, PLACE(member)}

static const struct field fields[] = {
    INT(steps, 1, MAX_STEPS, "optimizer steps of the whole run"),
    INT(sequences, 1, 1 << 16, "sequences a step (8)"),
    INT(accumulation, 1, 1 << 16, "micro-batches that a step is divided into (1)"),
    INT(context_len, 2, 1 << 22, "tokens of a sequence (1024)"),
    FLAG(answer_only, "of a prompt and its answer only the answer counts (false)"),
    INT(seed, 0, 0x1p53, "of the start, the order of the data and sampled gates (0)"),
    CHOICE(trained, trained_choices, "all, predictor, or lora: predictor and low-rank updates (all)"),
    CHOICE(target, learned_choices, "loss of the next token, or oracle: fit the predictor of a frozen model (loss)"),
    {.key = {"policy", "the attention: spkv, full, window, layout:file=F ... (spkv)", false}, .type = FIELD_TEXT,
     PLACE(policy)},
    INT(lora_r, 0, 1 << 16, "rank of low-rank updates, with trained lora (0 = none)"),
    REAL(lora_alpha, 0, 1e9, "they are scaled by lora_alpha / lora_r (0 = 2 lora_r)"),
    CHOICE(lora_targets, target_choices, "of the attention's projections, or all: those of the MLP too (attention)"),
    REAL(learning_rate, 0, 10, "peak learning rate of the model (2e-4)"),
    INT(warmup_steps, 0, MAX_STEPS, "steps in which the rate rises from 0 (0)"),
    REAL(final_lr_frac, 0, 1, "share of the peak at which the cosine ends (0.1)"),
    REAL(beta1, 0, 0.999999, "AdamW (0.9)"),
    REAL(beta2, 0, 0.999999, "AdamW (0.95)"),
    REAL(epsilon, 1e-30, 1, "AdamW (1e-8)"),
    REAL(weight_decay, 0, 100, "AdamW, matrices of the model (0.1)"),
    REAL(clip_norm, 0, 1e9, "gradients are scaled down to this norm (1); 0 = never"),
    CHOICE(predictor_kind, kind_choices, "trunk, linear, static or static-layer (trunk)"),
    INT(predictor_hidden, 0, 1 << 20, "width of the trunk (0 = max(16, d_model / 4))"),
    CHOICE(predictor_activation, activation_choices, "of the trunk: silu or gelu (silu)"),
    REAL(predictor_lr_factor, 0, 1e6, "learning rate of the predictor over the model's (5)"),
    REAL(predictor_weight_decay, 0, 100, "AdamW, predictor (0.1)"),
    REAL(start_bias, -100, 100, "of the predictor's output: 5 starts with open gates (5)"),
    INT(window, 1, 1 << 30, "tokens that are always visible (128)"),
    REAL(threshold, 0, 2, "a gate is open when the utility reaches it (0.5)"),
    CHOICE(gates, gates_choices, "of phase 1: soft or sampled (soft)"),
    REAL(sample_clip, 0, 0.5, "sampled: probabilities stay this far from 0 and 1 (0.05)"),
    REAL(soft_frac, 0, 1, "share of the cosine that phase 1 takes (0.75)"),
    INT(anneal_steps, 0, MAX_STEPS, "from soft to hard gates (0 = min(500, a third of phase 2))"),
    REAL(density_weight, 0, 1e6, "of the mean utility in the loss, positive is sparser (0)"),
    INT(density_ramp_steps, 0, MAX_STEPS, "steps in which that weight rises from 0 (0)"),
    REAL(target_density, 0, 1, "long-range density that the weight is adapted to (0 = none)"),
    INT(eval_every, 0, MAX_STEPS, "steps between evaluations (100); 0 = at the end only"),
    INT(save_every, 0, MAX_STEPS, "steps between checkpoints (500); 0 = at the end only"),
    FLAG(recompute, "keep less of the forward pass and run it again (false)"),
};

enum { N_FIELDS = sizeof fields / sizeof *fields };

/* Keys that change when a run reports and saves and how it uses memory, not what it computes. */
static bool is_idle(const struct field *f) {
    return strcmp(f->key.name, "eval_every") == 0 || strcmp(f->key.name, "save_every") == 0 ||
           strcmp(f->key.name, "recompute") == 0;
}

static const struct field *find_field(const char *key) {
    for (size_t i = 0; i < N_FIELDS; i++)
        if (strcmp(fields[i].key.name, key) == 0)
            return &fields[i];
    return NULL;
}

static int refuse_key(const char *key, int code, const char *where, struct err *err) {
    struct str all = {0};
    for (size_t i = 0; i < N_FIELDS; i++)
        str_printf(&all, "%s%s", i ? ", " : "", fields[i].key.name);
    err_set(err, code, where, "unknown key \"%.100s\": correct it or leave it out. The keys of a schedule are %s", key,
            str_text(&all));
    str_free(&all);
    return code;
}

/* --- values ----------------------------------------------------------------------------------------------------------- */

static void put_expectation(const struct field *f, struct str *out) {
    if (f->type == FIELD_BOOL)
        str_puts(out, "true or false");
    else if (f->type == FIELD_TEXT)
        str_printf(out, "a text of at most %zu bytes", f->size - 1);
    else if (f->type != FIELD_CHOICE)
        str_printf(out, "a %snumber from %.16g to %.16g", f->type == FIELD_INT ? "whole " : "", f->min, f->max);
    else
        for (const struct choice *c = f->choices; c->name; c++)
            str_printf(out, "%s\"%s\"", c == f->choices ? "" : c[1].name ? ", " : " or ", c->name);
}

static int refuse_value(const struct field *f, const json_t *value, int code, const char *where, struct err *err) {
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    struct str expected = {0};
    put_expectation(f, &expected);
    err_set(err, code, where, "\"%s\" is %.200s, expected %s\n(%s)", f->key.name, text ? text : "?", str_text(&expected),
            f->key.help);
    str_free(&expected);
    free(text);
    return code;
}

static void *place(struct schedule *s, const struct field *f) {
    return (char *)s + f->offset;
}

static const void *place_of(const struct schedule *s, const struct field *f) {
    return (const char *)s + f->offset;
}

static int64_t load_int(const struct schedule *s, const struct field *f) {
    int64_t wide = 0;
    int narrow;
    if (f->size == sizeof wide)
        return memcpy(&wide, place_of(s, f), sizeof wide), wide;
    return memcpy(&narrow, place_of(s, f), sizeof narrow), narrow;
}

static void store_int(struct schedule *s, const struct field *f, int64_t value) {
    int narrow = (int)value;
    if (f->size == sizeof value)
        memcpy(place(s, f), &value, sizeof value);
    else
        memcpy(place(s, f), &narrow, sizeof narrow);
}

static bool assign_number(struct schedule *s, const struct field *f, const json_t *value) {
    double x = json_number_value(value) + 0.0; /* -0 becomes 0 */
    if (!json_is_number(value) || !(x >= f->min && x <= f->max) || (f->type == FIELD_INT && x != (double)(int64_t)x))
        return false;
    if (f->type == FIELD_INT)
        store_int(s, f, json_is_integer(value) ? json_integer_value(value) : (int64_t)x);
    else
        memcpy(place(s, f), &x, sizeof x);
    return true;
}

static bool assign_text(struct schedule *s, const struct field *f, const json_t *value) {
    const char *text = json_string_value(value);
    if (!text)
        return false;
    if (f->type == FIELD_TEXT && json_string_length(value) < f->size) {
        memset(place(s, f), 0, f->size);
        memcpy(place(s, f), text, json_string_length(value));
        return true;
    }
    for (const struct choice *c = f->choices; c && c->name; c++)
        if (strcmp(c->name, text) == 0) {
            store_int(s, f, c->value);
            return true;
        }
    return false;
}

static bool assign(struct schedule *s, const struct field *f, const json_t *value) {
    bool truth = json_is_true(value);
    if (f->type == FIELD_INT || f->type == FIELD_REAL)
        return assign_number(s, f, value);
    if (f->type != FIELD_BOOL)
        return assign_text(s, f, value);
    if (json_is_boolean(value))
        memcpy(place(s, f), &truth, sizeof truth);
    return json_is_boolean(value);
}

/* --- reading ---------------------------------------------------------------------------------------------------------- */

static int take_object(json_t *object, const char *where, struct schedule *s, struct err *err) {
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        const struct field *f = find_field(key);
        if (!f)
            return refuse_key(key, ERR_INPUT, where, err);
        if (!assign(s, f, value))
            return refuse_value(f, value, ERR_INPUT, where, err);
    }
    return OK;
}

int schedule_parse(const char *text, size_t n, const char *where, struct schedule *s, struct err *err) {
    json_t *object;
    int rc = json_parse_object(text, n, where, &object, err);
    if (rc == OK)
        rc = take_object(object, where, s, err);
    json_decref(object);
    return rc;
}

int schedule_read(const char *path, struct schedule *s, struct err *err) {
    char *text;
    size_t n;
    int rc = file_read_all(path, MAX_FILE_BYTES, &text, &n, err);
    if (rc == OK)
        rc = schedule_parse(text, n, path, s, err);
    free(text);
    return rc;
}

/* What a word of the command line says to a field; what it cannot mean stays a string, which assign() refuses. */
static json_t *value_of_word(const struct field *f, const char *word) {
    char *end;
    if (f->type == FIELD_BOOL && (strcmp(word, "true") == 0 || strcmp(word, "false") == 0))
        return json_boolean(word[0] == 't');
    if (f->type == FIELD_INT || f->type == FIELD_REAL) {
        errno = 0;
        long long whole = strtoll(word, &end, 10);
        if (*word && !*end && errno == 0)
            return json_integer(whole);
        double real = strtod(word, &end);
        json_t *value = *word && !*end ? json_real(real) : NULL; /* NULL for infinity and NaN too */
        if (value)
            return value;
    }
    return json_string(word);
}

int schedule_set(struct schedule *s, const char *key, const char *word, struct err *err) {
    char name[128];
    size_t i, n = strlen(key);
    for (i = 0; i < n && i + 1 < sizeof name; i++)
        name[i] = (char)(key[i] == '-' ? '_' : key[i]);
    name[i] = 0;
    const struct field *f = find_field(name);
    if (!f)
        return refuse_key(key, ERR_USAGE, "", err);
    json_t *value = value_of_word(f, word);
    int rc = OK;
    if (!value)
        rc = err_set(err, ERR_USAGE, "", "the value of \"%s\" is not valid UTF-8: write it in UTF-8", f->key.name);
    else if (!assign(s, f, value))
        rc = refuse_value(f, value, ERR_USAGE, "", err);
    json_decref(value);
    return rc;
}

/* --- writing ---------------------------------------------------------------------------------------------------------- */

static void put_real(double x, struct str *out) {
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x)
            break;
    }
    str_puts(out, text);
}

static void put_text(const char *text, struct str *out) {
    json_t *value = json_string(text);
    char *quoted = value ? json_dumps(value, JSON_ENCODE_ANY) : NULL;
    if (quoted)
        str_puts(out, quoted);
    else
        out->failed = true;
    free(quoted);
    json_decref(value);
}

static void put_value(const struct schedule *s, const struct field *f, struct str *out) {
    const struct choice *c = f->choices;
    double real;
    bool truth;
    switch (f->type) {
    case FIELD_INT:
        str_printf(out, "%lld", (long long)load_int(s, f));
        break;
    case FIELD_REAL:
        memcpy(&real, place_of(s, f), sizeof real);
        put_real(real, out);
        break;
    case FIELD_BOOL:
        memcpy(&truth, place_of(s, f), sizeof truth);
        str_puts(out, truth ? "true" : "false");
        break;
    case FIELD_CHOICE:
        while (c->name && c->value != load_int(s, f))
            c++;
        ASSERT(c->name);
        put_text(c->name, out);
        break;
    case FIELD_TEXT:
        put_text(place_of(s, f), out);
        break;
    }
}

void schedule_format(const struct schedule *s, struct str *out) {
    for (size_t i = 0; i < N_FIELDS; i++) {
        str_printf(out, "%s\"%s\": ", i ? ",\n " : "{\n ", fields[i].key.name);
        put_value(s, &fields[i], out);
    }
    str_puts(out, "\n}\n");
}

void schedule_format_value(const struct schedule *s, const char *key, struct str *out) {
    const struct field *f = find_field(key);
    ASSERT(f);
    put_value(s, f, out);
}

int schedule_write(const struct schedule *s, const char *path, struct err *err) {
    struct str text = {0};
    schedule_format(s, &text);
    int rc = text.failed ? err_memory(err, "a schedule", text.len) : file_write_all(path, text.data, text.len, err);
    str_free(&text);
    return rc;
}

const char *schedule_difference(const struct schedule *a, const struct schedule *b, bool all) {
    for (size_t i = 0; i < N_FIELDS; i++)
        if ((all || !is_idle(&fields[i])) && memcmp(place_of(a, &fields[i]), place_of(b, &fields[i]), fields[i].size) != 0)
            return fields[i].key.name;
    return NULL;
}

size_t schedule_n_keys(void) {
    return N_FIELDS;
}

const struct schedule_key *schedule_key(size_t i) {
    ASSERT(i < N_FIELDS);
    return &fields[i].key;
}
