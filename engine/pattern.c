#include "engine/pattern.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/pattern_syntax.h"

struct pattern {
    char *literal; /* not empty; NULL: a regular expression */
    size_t literal_n;
    pcre2_code *code;
    bool jit;
};

struct pattern_scratch {
    pcre2_match_data *data;
};

static int compile_error(int problem, size_t offset, const char *regex, const struct str *translated, const char *where,
                         struct err *err) {
    PCRE2_UCHAR message[256];
    if (problem == PCRE2_ERROR_HEAP_FAILED)
        return err_memory(err, "a regular expression", translated->len);
    pcre2_get_error_message(problem, message, sizeof message);
    return err_set(err, ERR_INPUT, where, "regular expression \"%.300s\": %s (near byte %zu of \"%.300s\")", regex,
                   (const char *)message, offset, str_text(translated));
}

static int compile(struct pattern *pattern, const char *regex, size_t n, const char *where, struct err *err) {
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    struct str translated = {0};
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    int problem, rc = context ? OK : err_memory(err, "a regular expression", n);
    size_t offset;
    if (rc == OK)
        rc = pattern_translate(regex, n, where, &translated, err);
    if (rc == OK) {
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        PCRE2_SPTR text = (PCRE2_SPTR)str_text(&translated);
        pattern->code = pcre2_compile(text, translated.len, options, &problem, &offset, context);
        if (!pattern->code)
            rc = compile_error(problem, offset, regex, &translated, where, err);
        else
            pattern->jit = pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE) == 0;
    }
    pcre2_compile_context_free(context);
    str_free(&translated);
    return rc;
}

int pattern_from_regex(const char *regex, size_t n, const char *where, struct pattern **out, struct err *err) {
    *out = mem_alloc(1, sizeof **out, "a pattern", err);
    if (!*out)
        return ERR_MEMORY;
    int rc = compile(*out, regex, n, where, err);
    if (rc != OK) {
        pattern_free(*out);
        *out = NULL;
    }
    return rc;
}

static int from_literal(const char *text, size_t n, struct pattern **out, struct err *err) {
    struct pattern *pattern = mem_alloc(1, sizeof *pattern, "a pattern", err);
    if (!pattern)
        return ERR_MEMORY;
    pattern->literal = mem_strndup(text, n, err);
    pattern->literal_n = n;
    if (!pattern->literal) {
        free(pattern);
        return ERR_MEMORY;
    }
    *out = pattern;
    return OK;
}

int pattern_parse(const json_t *object, const char *where, struct pattern **out, struct err *err) {
    const json_t *literal = json_object_get(object, "String"), *regex = json_object_get(object, "Regex");
    const json_t *value = literal ? literal : regex;
    *out = NULL;
    if (!json_is_string(value) || (literal && regex))
        return err_set(err, ERR_INPUT, where, "\"pattern\" must be {\"String\": \"...\"} or {\"Regex\": \"...\"}");
    /* The empty string matches everywhere, as the empty regular expression does. */
    if (literal && json_string_length(literal) > 0)
        return from_literal(json_string_value(literal), json_string_length(literal), out, err);
    return pattern_from_regex(json_string_value(value), json_string_length(value), where, out, err);
}

void pattern_free(struct pattern *pattern) {
    if (!pattern)
        return;
    free(pattern->literal);
    pcre2_code_free(pattern->code);
    free(pattern);
}

int pattern_scratch_create(struct pattern_scratch **out, struct err *err) {
    *out = mem_alloc(1, sizeof **out, "match data", err);
    if (!*out)
        return ERR_MEMORY;
    (*out)->data = pcre2_match_data_create(1, NULL);
    if ((*out)->data)
        return OK;
    pattern_scratch_free(*out);
    *out = NULL;
    return err_memory(err, "match data", sizeof **out);
}

void pattern_scratch_free(struct pattern_scratch *scratch) {
    if (!scratch)
        return;
    pcre2_match_data_free(scratch->data);
    free(scratch);
}

void pattern_scan_begin(struct pattern_scan *scan, const struct pattern *pattern, struct pattern_scratch *scratch,
                        const char *text, size_t n) {
    *scan = (struct pattern_scan){.pattern = pattern, .scratch = scratch, .text = text, .n = n, .last_end = SIZE_MAX};
}

static void find_literal(struct pattern_scan *scan, bool *found) {
    const struct pattern *pattern = scan->pattern;
    const char *at = memmem(scan->text + scan->from, scan->n - scan->from, pattern->literal, pattern->literal_n);
    *found = at != NULL;
    if (!at)
        return;
    scan->start = (size_t)(at - scan->text);
    scan->from = scan->end = scan->start + pattern->literal_n;
}

/* One search from scan->from. JIT code that runs out of its stack leaves the job to the interpreter, which has the heap. */
static int search(struct pattern_scan *scan, bool *found, struct err *err) {
    const struct pattern *pattern = scan->pattern;
    PCRE2_SPTR text = (PCRE2_SPTR)scan->text;
    pcre2_match_data *data = scan->scratch->data;
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (pattern->jit)
        rc = pcre2_jit_match(pattern->code, text, scan->n, scan->from, 0, data, NULL);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(pattern->code, text, scan->n, scan->from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, NULL);
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMEMORY)
        return err_memory(err, "a regular expression match", scan->n);
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
        return err_set(err, ERR_INPUT, "",
                       "a regular expression of the tokenizer needs too many steps on this text (PCRE2 error %d)", rc);
    if (*found) {
        const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(data);
        scan->start = bounds[0];
        scan->end = bounds[1];
    }
    return OK;
}

static size_t char_after(const struct pattern_scan *scan) {
    size_t at = scan->from + 1;
    while (at < scan->n && ((unsigned char)scan->text[at] & 0xC0) == 0x80)
        at++;
    return at;
}

int pattern_scan_next(struct pattern_scan *scan, bool *found, struct err *err) {
    *found = false;
    if (scan->pattern->literal) {
        find_literal(scan, found);
        return OK;
    }
    while (scan->from <= scan->n) {
        int rc = search(scan, found, err);
        if (rc != OK || !*found)
            return rc;
        if (scan->start != scan->end || scan->end != scan->last_end) {
            scan->from = scan->last_end = scan->end;
            return OK;
        }
        scan->from = char_after(scan);
        *found = false;
    }
    return OK;
}
