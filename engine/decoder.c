#include "engine/decoder.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "engine/byte_level.h"
#include "engine/part.h"
#include "engine/unicode_class.h"

/* A file may ask for endless growth (Replace "" by a long string, again and again). */
enum { MAX_STEPS = 16, MAX_STRIP = 1 << 20, MAX_GROWTH = 64, GROWTH_SLACK = 1 << 12 };

enum step_kind { STEP_BYTE_LEVEL, STEP_REPLACE, STEP_BYTE_FALLBACK, STEP_FUSE, STEP_STRIP, STEP_METASPACE };

struct step {
    enum step_kind kind;
    struct pattern *pattern;  /* Replace */
    char *content;            /* Replace */
    char character[5];        /* Strip, Metaspace: one character */
    size_t character_n;
    size_t start, stop;       /* Strip: at most so many characters from either end */
    bool drop_first;          /* Metaspace: the first token loses its replacement characters */
};

struct decoder {
    struct step steps[MAX_STEPS];
    size_t n_steps;
    bool none;       /* join by spaces */
    bool byte_level; /* without a decoder: token strings hold characters of byte_level.h */
};

int decoder_list_add(struct decoder_list *list, const char *text, size_t n, struct err *err) {
    int rc = mem_grow(&list->ends, &list->cap, list->n + 1, sizeof *list->ends, "decoded text", err);
    if (rc != OK)
        return rc;
    str_append(&list->text, text, n);
    if (list->text.failed)
        return err_memory(err, "decoded text", n);
    list->ends[list->n++] = list->text.len;
    return OK;
}

void decoder_list_free(struct decoder_list *list) {
    str_free(&list->text);
    free(list->ends);
    *list = (struct decoder_list){0};
}

static const char *item(const struct decoder_list *list, size_t i, size_t *n) {
    size_t begin = i ? list->ends[i - 1] : 0;
    *n = list->ends[i] - begin;
    return str_text(&list->text) + begin;
}

static int read_character(const json_t *json, const char *key, const char *where, struct step *step, struct err *err) {
    const char *text = NULL;
    unsigned c;
    int rc = json_require(json, key, where, err);
    if (rc == OK)
        rc = json_get_string(json, key, &text, where, err);
    if (rc != OK)
        return rc;
    size_t n = strlen(text);
    if (n == 0 || utf8_decode(text, n, &c) != n)
        return err_set(err, ERR_INPUT, where, "\"%s\" is not one character", key);
    memcpy(step->character, text, n);
    step->character_n = n;
    return OK;
}

static int parse_replace(struct step *step, const json_t *json, const char *where, struct err *err) {
    const char *content = "";
    int rc = json_require(json, "content", where, err);
    if (rc == OK)
        rc = json_get_string(json, "content", &content, where, err);
    if (rc != OK)
        return rc;
    step->kind = STEP_REPLACE;
    step->content = mem_strdup(content, err);
    return step->content ? pattern_parse(json_object_get(json, "pattern"), where, &step->pattern, err) : ERR_MEMORY;
}

static int parse_strip(struct step *step, const json_t *json, const char *where, struct err *err) {
    int64_t start = 0, stop = 0;
    int rc = read_character(json, "content", where, step, err);
    if (rc == OK)
        rc = json_get_int(json, "start", 0, MAX_STRIP, &start, where, err);
    if (rc == OK)
        rc = json_get_int(json, "stop", 0, MAX_STRIP, &stop, where, err);
    step->kind = STEP_STRIP;
    step->start = (size_t)start;
    step->stop = (size_t)stop;
    return rc;
}

static int parse_metaspace(struct step *step, const json_t *json, const char *where, struct err *err) {
    const char *scheme = "always";
    step->kind = STEP_METASPACE;
    int rc = read_character(json, "replacement", where, step, err);
    if (rc == OK)
        rc = json_get_string(json, "prepend_scheme", &scheme, where, err);
    step->drop_first = strcmp(scheme, "never") != 0;
    return rc;
}

static int add_step(void *self, const json_t *json, const char *type, const char *where, struct err *err) {
    struct decoder *decoder = self;
    if (decoder->n_steps == MAX_STEPS)
        return err_set(err, ERR_INPUT, where, "more than %d decoders", MAX_STEPS);
    struct step *step = &decoder->steps[decoder->n_steps++];
    if (strcmp(type, "Replace") == 0)
        return parse_replace(step, json, where, err);
    if (strcmp(type, "Strip") == 0)
        return parse_strip(step, json, where, err);
    if (strcmp(type, "Metaspace") == 0)
        return parse_metaspace(step, json, where, err);
    if (strcmp(type, "ByteLevel") == 0)
        step->kind = STEP_BYTE_LEVEL;
    else if (strcmp(type, "ByteFallback") == 0)
        step->kind = STEP_BYTE_FALLBACK;
    else if (strcmp(type, "Fuse") == 0)
        step->kind = STEP_FUSE;
    else
        return err_set(err, ERR_INPUT, where,
                       "decoder %s is not supported\n"
                       "(ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace and Sequence are)",
                       type);
    return OK;
}

int decoder_parse(const json_t *json, const char *where, bool byte_level, struct decoder **out, struct err *err) {
    char place[512];
    snprintf(place, sizeof place, "%s: decoder", where);
    *out = NULL;
    struct decoder *decoder = mem_alloc(1, sizeof *decoder, "a decoder", err);
    if (!decoder)
        return ERR_MEMORY;
    decoder->none = !json || json_is_null(json);
    decoder->byte_level = decoder->none && byte_level;
    int rc = decoder->none ? OK : part_parse(json, "decoders", add_step, decoder, place, err);
    if (rc != OK)
        decoder_free(decoder);
    else
        *out = decoder;
    return rc;
}

void decoder_free(struct decoder *decoder) {
    if (!decoder)
        return;
    for (size_t i = 0; i < decoder->n_steps; i++) {
        free(decoder->steps[i].content);
        pattern_free(decoder->steps[i].pattern);
    }
    free(decoder);
}

/* Appends the bytes behind the characters of byte_level.h; a token with any other character stays as it is. */
static void put_byte_level(const char *text, size_t n, struct str *out) {
    size_t before = out->len;
    for (size_t at = 0; at < n;) {
        unsigned c;
        at += utf8_decode(text + at, n - at, &c);
        int byte = byte_level_byte(c);
        if (byte < 0) {
            out->len = before;
            str_append(out, text, n);
            return;
        }
        str_putc(out, (char)byte);
    }
}

/* Length of the longest part of text, at most a character, that could begin one: what one U+FFFD stands for. */
static size_t broken_length(const char *text, size_t n) {
    const unsigned char *t = (const unsigned char *)text;
    size_t want = t[0] >= 0xC2 && t[0] < 0xE0 ? 2 : t[0] >= 0xE0 && t[0] < 0xF0 ? 3 : t[0] >= 0xF0 && t[0] < 0xF5 ? 4 : 1;
    size_t len = 1;
    if (want > 1 && n > 1) {
        unsigned low = t[0] == 0xE0 ? 0xA0 : t[0] == 0xF0 ? 0x90 : 0x80;
        unsigned high = t[0] == 0xED ? 0x9F : t[0] == 0xF4 ? 0x8F : 0xBF;
        if (t[1] < low || t[1] > high)
            return 1;
        for (len = 2; len < want && len < n && (t[len] & 0xC0) == 0x80;)
            len++;
    }
    return len;
}

static void put_lossy(const char *text, size_t n, struct str *out) {
    for (size_t at = 0; at < n;) {
        size_t good = utf8_first_invalid(text + at, n - at);
        str_append(out, text + at, good);
        at += good;
        if (at < n) {
            str_puts(out, "\xEF\xBF\xBD");
            at += broken_length(text + at, n - at);
        }
    }
}

/* The value of "<0xHH>", or -1. The library reads a "+" in front of one digit, too. */
static int byte_token(const char *text, size_t n) {
    if (n != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>' || !isxdigit((unsigned char)text[4]) ||
        (text[3] != '+' && !isxdigit((unsigned char)text[3])))
        return -1;
    char digits[3] = {text[3] == '+' ? '0' : text[3], text[4], 0};
    return (int)strtol(digits, NULL, 16);
}

/* Room and reason: match data, and how long the whole may become. */
struct bounds {
    struct pattern_scratch *matching;
    size_t max;
};

static size_t growth_limit(size_t n) {
    return n > SIZE_MAX / MAX_GROWTH - GROWTH_SLACK ? SIZE_MAX : n * MAX_GROWTH + GROWTH_SLACK;
}

static int put_replaced(const struct step *step, const struct bounds *bounds, const char *text, size_t n, struct str *out,
                        struct err *err) {
    struct pattern_scan scan;
    bool found = false;
    size_t copied = 0;
    int rc = OK;
    pattern_scan_begin(&scan, step->pattern, bounds->matching, text, n);
    while (n > 0 && (rc = pattern_scan_next(&scan, &found, err)) == OK && found) {
        str_append(out, text + copied, scan.start - copied);
        str_puts(out, step->content);
        copied = scan.end;
        if (out->len > bounds->max)
            return err_set(err, ERR_INPUT, "", "the decoder blows the text up to more than %zu bytes", bounds->max);
    }
    str_append(out, text + copied, n - copied);
    return rc;
}

static bool is_character(const struct step *step, const char *text, size_t n) {
    return n >= step->character_n && memcmp(text, step->character, step->character_n) == 0;
}

static void put_metaspace(const struct step *step, bool drop, const char *text, size_t n, struct str *out) {
    for (size_t at = 0; at < n;) {
        bool hit = is_character(step, text + at, n - at);
        if (hit && !drop)
            str_putc(out, ' ');
        if (!hit)
            str_putc(out, text[at]);
        at += hit ? step->character_n : 1;
    }
}

static void put_stripped(const struct step *step, const char *text, size_t n, struct str *out) {
    size_t width = step->character_n;
    for (size_t i = 0; i < step->start && is_character(step, text, n); i++) {
        text += width;
        n -= width;
    }
    for (size_t i = 0; i < step->stop && n >= width && is_character(step, text + n - width, width); i++)
        n -= width;
    str_append(out, text, n);
}

static int end_item(struct decoder_list *list, struct err *err) {
    return decoder_list_add(list, "", 0, err);
}

static int fuse(const struct decoder_list *from, bool byte_level, struct decoder_list *to, struct err *err) {
    if (!byte_level)
        str_append(&to->text, str_text(&from->text), from->text.len);
    else {
        struct str bytes = {0};
        for (size_t i = 0, n; i < from->n; i++) {
            const char *text = item(from, i, &n);
            put_byte_level(text, n, &bytes);
        }
        put_lossy(str_text(&bytes), bytes.len, &to->text);
        to->text.failed |= bytes.failed;
        str_free(&bytes);
    }
    return end_item(to, err);
}

/* The waiting bytes become one string, or one U+FFFD each. */
static int put_waiting(struct str *bytes, struct decoder_list *to, struct err *err) {
    int rc = OK;
    if (utf8_first_invalid(str_text(bytes), bytes->len) == bytes->len)
        rc = bytes->len ? decoder_list_add(to, bytes->data, bytes->len, err) : OK;
    else
        for (size_t i = 0; rc == OK && i < bytes->len; i++)
            rc = decoder_list_add(to, "\xEF\xBF\xBD", 3, err);
    if (bytes->failed)
        rc = err_memory(err, "decoded text", bytes->len);
    str_clear(bytes);
    return rc;
}

static int fall_back(const struct decoder_list *from, struct decoder_list *to, struct err *err) {
    struct str bytes = {0};
    int rc = OK;
    for (size_t i = 0, n; rc == OK && i < from->n; i++) {
        const char *text = item(from, i, &n);
        int byte = byte_token(text, n);
        if (byte >= 0) {
            str_putc(&bytes, (char)byte);
            continue;
        }
        rc = put_waiting(&bytes, to, err);
        if (rc == OK)
            rc = decoder_list_add(to, text, n, err);
    }
    if (rc == OK)
        rc = put_waiting(&bytes, to, err);
    str_free(&bytes);
    return rc;
}

static int run_each(const struct step *step, const struct bounds *bounds, const struct decoder_list *from,
                    struct decoder_list *to, struct err *err) {
    int rc = OK;
    for (size_t i = 0, n; rc == OK && i < from->n; i++) {
        const char *text = item(from, i, &n);
        if (step->kind == STEP_REPLACE)
            rc = put_replaced(step, bounds, text, n, &to->text, err);
        else if (step->kind == STEP_STRIP)
            put_stripped(step, text, n, &to->text);
        else
            put_metaspace(step, step->drop_first && i == 0, text, n, &to->text);
        if (rc == OK)
            rc = end_item(to, err);
    }
    return rc;
}

static int run_step(const struct step *step, const struct bounds *bounds, const struct decoder_list *from,
                    struct decoder_list *to, struct err *err) {
    str_clear(&to->text);
    to->n = 0;
    switch (step->kind) {
    case STEP_FUSE: return fuse(from, false, to, err);
    case STEP_BYTE_LEVEL: return fuse(from, true, to, err);
    case STEP_BYTE_FALLBACK: return fall_back(from, to, err);
    default: return run_each(step, bounds, from, to, err);
    }
}

static void join(const struct decoder_list *tokens, struct str *out) {
    for (size_t i = 0, n; i < tokens->n; i++) {
        const char *text = item(tokens, i, &n);
        if (i)
            str_putc(out, ' ');
        str_append(out, text, n);
    }
}

int decoder_run(const struct decoder *decoder, struct decoder_list *tokens, struct str *out, struct err *err) {
    struct bounds bounds = {NULL, growth_limit(tokens->text.len)};
    struct decoder_list other = {0};
    int rc = OK;
    if (decoder->none) {
        join(tokens, out);
        return out->failed ? err_memory(err, "decoded text", out->len) : OK;
    }
    rc = pattern_scratch_create(&bounds.matching, err);
    for (size_t i = 0; rc == OK && i < decoder->n_steps; i++) {
        rc = run_step(&decoder->steps[i], &bounds, tokens, &other, err);
        struct decoder_list swap = *tokens;
        *tokens = other;
        other = swap;
    }
    if (rc == OK)
        str_append(out, str_text(&tokens->text), tokens->text.len);
    if (rc == OK && out->failed)
        rc = err_memory(err, "decoded text", out->len);
    decoder_list_free(&other);
    pattern_scratch_free(bounds.matching);
    return rc;
}

int decoder_token_bytes(const struct decoder *decoder, struct pattern_scratch *matching, const char *token, size_t n,
                        struct str *out, struct err *err) {
    struct bounds bounds = {matching, growth_limit(n)};
    struct str text[2] = {{0}, {0}};
    int turn = 0, rc = OK;
    if (decoder->byte_level)
        put_byte_level(token, n, &text[0]);
    else
        str_append(&text[0], token, n);
    for (size_t i = 0; rc == OK && i < decoder->n_steps; i++) {
        const struct step *step = &decoder->steps[i];
        const char *from = str_text(&text[turn]);
        size_t len = text[turn].len;
        struct str *to = &text[1 - turn];
        int byte = step->kind == STEP_BYTE_FALLBACK ? byte_token(from, len) : -1;
        bool valid = utf8_first_invalid(from, len) == len; /* false behind a byte token: nothing more to do */
        if (!valid || step->kind == STEP_FUSE || step->kind == STEP_STRIP || (step->kind == STEP_BYTE_FALLBACK && byte < 0))
            continue;
        str_clear(to);
        if (step->kind == STEP_BYTE_FALLBACK)
            str_putc(to, (char)byte);
        else if (step->kind == STEP_BYTE_LEVEL)
            put_byte_level(from, len, to);
        else if (step->kind == STEP_REPLACE)
            rc = put_replaced(step, &bounds, from, len, to, err);
        else
            put_metaspace(step, false, from, len, to);
        turn = 1 - turn;
    }
    str_append(out, str_text(&text[turn]), text[turn].len);
    if (rc == OK && (text[0].failed || text[1].failed || out->failed))
        rc = err_memory(err, "token texts", n);
    str_free(&text[0]);
    str_free(&text[1]);
    return rc;
}
