#include "engine/normalizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "engine/nfc.h"
#include "engine/part.h"

enum { MAX_STEPS = 32 };

/* A file may ask for endless growth (Replace "" by a long string, again and again). */
enum { MAX_GROWTH = 64, GROWTH_SLACK = 1 << 16 };

enum step_kind { STEP_NFC, STEP_PREPEND, STEP_REPLACE };

struct step {
    enum step_kind kind;
    char *content; /* Prepend, Replace */
    size_t content_n;
    struct pattern *pattern; /* Replace */
    struct nfc *nfc;
};

struct normalizer {
    struct step steps[MAX_STEPS];
    size_t n_steps;
};

static int read_content(const json_t *json, const char *key, const char *where, struct step *step, struct err *err) {
    const char *text = NULL;
    int rc = json_require(json, key, where, err);
    if (rc == OK)
        rc = json_get_string(json, key, &text, where, err);
    if (rc != OK)
        return rc;
    step->content_n = strlen(text);
    step->content = mem_strndup(text, step->content_n, err);
    return step->content ? OK : ERR_MEMORY;
}

static int add_step(void *self, const json_t *json, const char *type, const char *where, struct err *err) {
    struct normalizer *normalizer = self;
    if (normalizer->n_steps == MAX_STEPS)
        return err_set(err, ERR_INPUT, where, "more than %d normalizers", MAX_STEPS);
    struct step *step = &normalizer->steps[normalizer->n_steps++];
    if (strcmp(type, "NFC") == 0) {
        step->kind = STEP_NFC;
        return nfc_create(&step->nfc, err);
    }
    if (strcmp(type, "Prepend") == 0) {
        step->kind = STEP_PREPEND;
        return read_content(json, "prepend", where, step, err);
    }
    if (strcmp(type, "Replace") == 0) {
        step->kind = STEP_REPLACE;
        int rc = read_content(json, "content", where, step, err);
        return rc == OK ? pattern_parse(json_object_get(json, "pattern"), where, &step->pattern, err) : rc;
    }
    return err_set(err, ERR_INPUT, where, "normalizer %s is not supported (NFC, Prepend, Replace and Sequence are)", type);
}

int normalizer_parse(const json_t *json, const char *where, struct normalizer **out, struct err *err) {
    char place[512];
    snprintf(place, sizeof place, "%s: normalizer", where);
    *out = NULL;
    struct normalizer *normalizer = mem_alloc(1, sizeof *normalizer, "a normalizer", err);
    if (!normalizer)
        return ERR_MEMORY;
    int rc = json && !json_is_null(json) ? part_parse(json, "normalizers", add_step, normalizer, place, err) : OK;
    if (rc != OK)
        normalizer_free(normalizer);
    else
        *out = normalizer;
    return rc;
}

void normalizer_free(struct normalizer *normalizer) {
    if (!normalizer)
        return;
    for (size_t i = 0; i < normalizer->n_steps; i++) {
        free(normalizer->steps[i].content);
        pattern_free(normalizer->steps[i].pattern);
        nfc_free(normalizer->steps[i].nfc);
    }
    free(normalizer);
}

void normalizer_scratch_free(struct normalizer_scratch *scratch) {
    str_free(&scratch->text[0]);
    str_free(&scratch->text[1]);
}

/* The library gives what is put in for a match the place of the match's last byte, and what is put in at the very beginning
 * the place of the text's beginning. */
static bool from_origin(size_t start, size_t end, size_t origin) {
    return end > start ? end <= origin : origin > 0 && start <= origin;
}

static int replace(const struct step *step, struct pattern_scratch *matching, const char *text, size_t n, size_t limit,
                   struct str *out, size_t *origin, struct err *err) {
    struct pattern_scan scan;
    bool found = false;
    size_t copied = 0, new_origin = 0;
    int rc = OK;
    pattern_scan_begin(&scan, step->pattern, matching, text, n);
    while (rc == OK && (rc = pattern_scan_next(&scan, &found, err)) == OK && found) {
        if (copied < *origin)
            new_origin = out->len + (scan.start < *origin ? scan.start : *origin) - copied;
        str_append(out, text + copied, scan.start - copied);
        str_append(out, step->content, step->content_n);
        if (from_origin(scan.start, scan.end, *origin))
            new_origin = out->len;
        copied = scan.end;
        if (out->len > limit)
            rc = err_set(err, ERR_INPUT, "", "the normalizer blows %zu bytes of text up to more than %zu", n, limit);
    }
    if (copied < *origin)
        new_origin = out->len + *origin - copied;
    str_append(out, text + copied, n - copied);
    *origin = new_origin;
    return rc == OK && out->failed ? err_memory(err, "normalised text", out->len) : rc;
}

static int prepend(const struct step *step, const char *text, size_t n, struct str *out, size_t *origin, struct err *err) {
    str_append(out, step->content, step->content_n);
    str_append(out, text, n);
    if (*origin)
        *origin += step->content_n;
    return out->failed ? err_memory(err, "normalised text", n) : OK;
}

int normalizer_run(const struct normalizer *normalizer, struct normalizer_scratch *scratch,
                   struct pattern_scratch *matching, const char *text, size_t n, const char **out, size_t *n_out,
                   size_t *origin, struct err *err) {
    size_t limit = n > SIZE_MAX / MAX_GROWTH - GROWTH_SLACK ? SIZE_MAX : n * MAX_GROWTH + GROWTH_SLACK;
    int rc = OK, turn = 0;
    for (size_t i = 0; rc == OK && n > 0 && i < normalizer->n_steps; i++) {
        const struct step *step = &normalizer->steps[i];
        struct str *to = &scratch->text[turn];
        bool changed = true;
        str_clear(to);
        if (step->kind == STEP_NFC)
            rc = nfc_run(step->nfc, text, n, to, origin, &changed, err);
        else if (step->kind == STEP_PREPEND)
            rc = prepend(step, text, n, to, origin, err);
        else
            rc = replace(step, matching, text, n, limit, to, origin, err);
        if (changed) {
            text = str_text(to);
            n = to->len;
            turn = 1 - turn;
        }
        if (rc == OK && n > limit)
            rc = err_set(err, ERR_INPUT, "", "the normalizer blows the text up to more than %zu bytes", limit);
    }
    *out = text;
    *n_out = n;
    return rc;
}
