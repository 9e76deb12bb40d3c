#include "reports/candidates.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/layout.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "reports/run.h"
#include "reports/text.h"

int candidates_add(struct candidates *to, const char *group, const char *name, const char *column, const char *origin,
                   struct candidate **out, struct err *err) {
    const struct estimate none = {NAN, NAN, NAN};
    int rc = mem_grow(&to->items, &to->cap, to->n + 1, sizeof *to->items, "candidates", err);
    if (rc != OK)
        return rc;
    struct candidate *c = &to->items[to->n++]; /* from here on candidates_free() sees it */
    *c = (struct candidate){.n_global = NAN, .coverage = NAN, .predicted_kv_fraction = NAN, .read_fraction = NAN,
                            .kv_fraction = NAN, .nll_change = none, .gap_recovered = none};
    *out = c;
    return (c->group = mem_strdup(group, err)) && (c->name = mem_strdup(name, err)) &&
                   (c->column = mem_strdup(column, err)) && (c->origin = mem_strdup(origin, err))
               ? OK
               : ERR_MEMORY;
}

void candidates_free(struct candidates *candidates) {
    for (size_t i = 0; i < candidates->n; i++) {
        free(candidates->items[i].group);
        free(candidates->items[i].name);
        free(candidates->items[i].column);
        free(candidates->items[i].origin);
    }
    free(candidates->items);
    *candidates = (struct candidates){0};
}

/* -- layouts -- */

bool candidates_is_layout(const char *path) {
    size_t n = strlen(path);
    return n > 5 && strcmp(path + n - 5, ".json") == 0;
}

/* Names of corpora out of a list of strings. */
static void put_corpora(const json_t *object, struct str *out) {
    const json_t *list = json_object_get(object, "corpora"), *entry;
    size_t i;
    json_array_foreach(list, i, entry)
        if (json_is_string(entry)) {
            str_puts(out, i ? ", " : "");
            run_put_short_name(out, json_string_value(entry));
        }
}

/* "12 documents" where the object has the number. */
static void put_amount(const json_t *object, const char *key, const char *what, struct str *out) {
    const json_t *number = json_object_get(object, key);
    if (!json_is_integer(number) || json_integer_value(number) < 0)
        return;
    str_puts(out, ", ");
    text_put_count(out, (uint64_t)json_integer_value(number));
    str_printf(out, " %s", what);
}

static void put_layout(const struct layout *layout, struct str *out) {
    str_printf(out, "Layouts of %u layers x %u KV heads, window %u, sinks %u", layout->n_layers, layout->n_kv_heads,
               layout->window, layout->sinks);
    if (*layout->base_model_hash)
        str_printf(out, ", model %.8s", layout->base_model_hash);
}

static void put_prediction(const struct layout *layout, struct str *out) {
    const char *measure = json_string_value(json_object_get(layout->made_by, "measure"));
    const json_t *evidence = json_object_get(layout->made_by, "evidence");
    put_layout(layout, out);
    if (measure)
        str_printf(out, "; chosen by %s", measure);
    str_puts(out, " on ");
    put_corpora(layout->made_by, out);
    put_amount(evidence, "sequences", "sequences", out);
    put_amount(evidence, "tokens", "tokens", out);
    str_putc(out, '.');
}

static void put_measurement(const struct layout *layout, const json_t *figures, struct str *out) {
    put_layout(layout, out);
    str_puts(out, "; measured on ");
    put_corpora(figures, out);
    put_amount(figures, "n_documents", "documents", out);
    put_amount(figures, "n_sequences", "sequences", out);
    put_amount(figures, "n_tok", "tokens", out);
    str_putc(out, '.');
}

/* "densest-heads-6" of "layouts/densest-heads-6.json". */
static char *stem(const char *path, struct err *err) {
    const char *base = file_basename(path), *dot = strrchr(base, '.');
    return mem_strndup(base, dot ? (size_t)(dot - base) : strlen(base), err);
}

static int read_interval(const json_t *figures, const char *key, struct estimate *out, const char *where, struct err *err) {
    json_t *pair = NULL;
    double *const ends[] = {&out->low, &out->high};
    int rc = json_get_array(figures, key, &pair, where, err);
    if (rc != OK || !pair)
        return rc;
    for (size_t i = 0; i < 2; i++) {
        const json_t *end = json_array_get(pair, i);
        if (json_array_size(pair) != 2 || !(json_is_number(end) || json_is_null(end)))
            return err_set(err, ERR_INPUT, where, "\"%s\" is not a pair of numbers", key);
        if (json_is_number(end))
            *ends[i] = json_number_value(end);
    }
    return OK;
}

static int read_figures(const json_t *figures, struct candidate *c, const char *where, struct err *err) {
    double used = NAN, full = NAN;
    const struct {
        const char *key;
        double low, *out;
    } reals[] = {{"nll_change", -1, &c->nll_change.value},
                 {"gap_recovered", -1e9, &c->gap_recovered.value},
                 {"read_fraction", 0, &c->read_fraction},
                 {"kv_bytes_used", 0, &used},
                 {"kv_bytes_full", 0, &full}};
    int rc = OK;
    for (size_t i = 0; rc == OK && i < sizeof reals / sizeof *reals; i++)
        rc = json_get_real(figures, reals[i].key, reals[i].low, 1e18, reals[i].out, where, err);
    if (rc == OK)
        rc = read_interval(figures, "nll_change_interval", &c->nll_change, where, err);
    if (rc == OK)
        rc = read_interval(figures, "gap_recovered_interval", &c->gap_recovered, where, err);
    c->kv_fraction = full > 0 ? used / full : (double)NAN;
    return rc;
}

/* What the layout itself says, with figures or without. */
static void take_layout(const struct layout *layout, struct candidate *c) {
    const json_t *coverage = json_object_get(layout->predicted, "coverage");
    c->is_layout = true;
    c->n_global = (double)layout_n_global(layout);
    c->predicted_kv_fraction = layout_kv_fraction(layout, CANDIDATE_CONTEXT);
    c->coverage = json_is_number(coverage) ? json_number_value(coverage) : (double)NAN;
}

static int add_measured(struct candidates *to, const struct layout *layout, const char *name, const char *column,
                        const char *path, struct err *err) {
    json_t *figures = NULL;
    struct candidate *c;
    struct str origin = {0};
    int rc = json_get_object(layout->measured, column, &figures, path, err);
    if (rc != OK || json_object_size(figures) == 0)
        return rc;
    put_measurement(layout, figures, &origin);
    rc = candidates_add(to, layout_strategy(layout), name, column, str_text(&origin), &c, err);
    if (rc == OK) {
        take_layout(layout, c);
        rc = read_figures(figures, c, path, err);
    }
    str_free(&origin);
    return rc;
}

int candidates_add_layout(struct candidates *to, const char *path, struct err *err) {
    struct layout *layout;
    struct candidate *c;
    struct str origin = {0};
    int rc = layout_read(path, &layout, err);
    if (rc != OK)
        return rc;
    char *name = stem(path, err);
    put_prediction(layout, &origin);
    rc = name ? candidates_add(to, layout_strategy(layout), name, "", str_text(&origin), &c, err) : ERR_MEMORY;
    if (rc == OK) {
        take_layout(layout, c);
        if (layout->measured) {
            rc = add_measured(to, layout, name, "zero_shot", path, err);
            rc = rc == OK ? add_measured(to, layout, name, "healed", path, err) : rc;
        }
    }
    free(name);
    str_free(&origin);
    layout_free(layout);
    return rc;
}
