#include "engine/pretokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "engine/byte_level.h"
#include "engine/part.h"
#include "engine/unicode_class.h"

/* Stages that rewrite text can double it piece by piece; real files have one. */
enum { MAX_REWRITES = 2 };

static const char gpt2_regex[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

enum stage_kind { STAGE_SPLIT, STAGE_DIGITS, STAGE_BYTE_LEVEL, STAGE_METASPACE };
enum behaviour { REMOVED, ISOLATED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS };
enum prepend { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };

struct stage {
    enum stage_kind kind;
    struct pattern *pattern; /* Split; ByteLevel with its regular expression; Metaspace that splits */
    enum behaviour behaviour;
    bool invert;
    bool prefix_space;   /* ByteLevel */
    bool write_out;      /* ByteLevel with a stage behind it */
    enum prepend prepend;  /* Metaspace */
    char replacement[4];
    size_t replacement_n;
};

struct pretokenizer {
    struct stage stages[MAX_STAGES];
    size_t n_stages;
};

static int name_of(const json_t *json, const char *key, const char *const *names, int n, const char *where, int *out,
                   struct err *err) {
    const char *name = NULL;
    int rc = json_get_string(json, key, &name, where, err);
    if (rc != OK || !name)
        return rc;
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0) {
            *out = i;
            return OK;
        }
    return err_set(err, ERR_INPUT, where, "\"%s\" is \"%s\", which is not known", key, name);
}

static int parse_split(struct stage *stage, const json_t *json, const char *where, struct err *err) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    int behaviour = ISOLATED, rc = json_require(json, "behavior", where, err);
    stage->kind = STAGE_SPLIT;
    if (rc == OK)
        rc = name_of(json, "behavior", names, 5, where, &behaviour, err);
    if (rc == OK)
        rc = json_get_bool(json, "invert", &stage->invert, where, err);
    stage->behaviour = (enum behaviour)behaviour;
    return rc == OK ? pattern_parse(json_object_get(json, "pattern"), where, &stage->pattern, err) : rc;
}

static int parse_digits(struct stage *stage, const json_t *json, const char *where, struct err *err) {
    bool individual = false;
    int rc = json_get_bool(json, "individual_digits", &individual, where, err);
    stage->kind = STAGE_DIGITS;
    stage->behaviour = individual ? ISOLATED : CONTIGUOUS;
    return rc;
}

static int parse_byte_level(struct stage *stage, const json_t *json, const char *where, struct err *err) {
    bool use_regex = true;
    stage->kind = STAGE_BYTE_LEVEL;
    stage->behaviour = ISOLATED;
    int rc = json_require(json, "add_prefix_space", where, err);
    if (rc == OK)
        rc = json_get_bool(json, "add_prefix_space", &stage->prefix_space, where, err);
    if (rc == OK)
        rc = json_get_bool(json, "use_regex", &use_regex, where, err);
    return rc == OK && use_regex ? pattern_from_regex(gpt2_regex, strlen(gpt2_regex), where, &stage->pattern, err) : rc;
}

static int parse_metaspace(struct stage *stage, const json_t *json, const char *where, struct err *err) {
    static const char *const names[] = {"always", "first", "never"};
    const char *replacement = "\xE2\x96\x81";
    bool prefix = true, split = true;
    unsigned c;
    int prepend = PREPEND_ALWAYS;
    stage->kind = STAGE_METASPACE;
    stage->behaviour = MERGED_WITH_NEXT;
    int rc = json_get_string(json, "replacement", &replacement, where, err);
    if (rc == OK)
        rc = name_of(json, "prepend_scheme", names, 3, where, &prepend, err);
    if (rc == OK)
        rc = json_get_bool(json, "add_prefix_space", &prefix, where, err);
    if (rc == OK)
        rc = json_get_bool(json, "split", &split, where, err);
    if (rc != OK)
        return rc;
    if (!prefix && prepend != PREPEND_NEVER)
        return err_set(err, ERR_INPUT, where, "\"add_prefix_space\" false needs \"prepend_scheme\" \"never\" beside it");
    size_t n = strlen(replacement);
    if (n == 0 || utf8_decode(replacement, n, &c) != n)
        return err_set(err, ERR_INPUT, where, "\"replacement\" is not one character");
    stage->prepend = (enum prepend)prepend;
    memcpy(stage->replacement, replacement, n);
    stage->replacement_n = n;
    json_t *literal = split ? json_pack("{s:s}", "String", replacement) : NULL;
    if (split && !literal)
        return err_memory(err, "a pattern", n);
    rc = split ? pattern_parse(literal, where, &stage->pattern, err) : OK;
    json_decref(literal);
    return rc;
}

static int add_stage(void *self, const json_t *json, const char *type, const char *where, struct err *err) {
    struct pretokenizer *p = self;
    if (p->n_stages == MAX_STAGES)
        return err_set(err, ERR_INPUT, where, "more than %d pre-tokenizers", MAX_STAGES);
    struct stage *stage = &p->stages[p->n_stages++];
    if (strcmp(type, "Split") == 0)
        return parse_split(stage, json, where, err);
    if (strcmp(type, "Digits") == 0)
        return parse_digits(stage, json, where, err);
    if (strcmp(type, "ByteLevel") == 0)
        return parse_byte_level(stage, json, where, err);
    if (strcmp(type, "Metaspace") == 0)
        return parse_metaspace(stage, json, where, err);
    return err_set(err, ERR_INPUT, where,
                   "pre-tokenizer %s is not supported (Split, Digits, ByteLevel, Metaspace and Sequence are)", type);
}

static int check(struct pretokenizer *p, const char *where, struct err *err) {
    size_t n_rewrites = 0;
    for (size_t i = 0; i < p->n_stages; i++) {
        struct stage *stage = &p->stages[i];
        stage->write_out = stage->kind == STAGE_BYTE_LEVEL && i + 1 < p->n_stages;
        n_rewrites += stage->kind == STAGE_BYTE_LEVEL || stage->kind == STAGE_METASPACE;
    }
    if (n_rewrites > MAX_REWRITES)
        return err_set(err, ERR_INPUT, where, "more than %d pre-tokenizers that rewrite the text", MAX_REWRITES);
    return OK;
}

int pretokenizer_parse(const json_t *json, const char *where, struct pretokenizer **out, struct err *err) {
    char place[512];
    snprintf(place, sizeof place, "%s: pre_tokenizer", where);
    *out = NULL;
    struct pretokenizer *p = mem_alloc(1, sizeof *p, "a pre-tokenizer", err);
    if (!p)
        return ERR_MEMORY;
    int rc = json && !json_is_null(json) ? part_parse(json, "pretokenizers", add_stage, p, place, err) : OK;
    if (rc == OK)
        rc = check(p, place, err);
    if (rc != OK)
        pretokenizer_free(p);
    else
        *out = p;
    return rc;
}

void pretokenizer_free(struct pretokenizer *p) {
    if (!p)
        return;
    for (size_t i = 0; i < p->n_stages; i++)
        pattern_free(p->stages[i].pattern);
    free(p);
}

bool pretokenizer_is_byte_level(const struct pretokenizer *p) {
    return p->n_stages > 0 && p->stages[p->n_stages - 1].kind == STAGE_BYTE_LEVEL;
}

void pretokenizer_scratch_free(struct pretokenizer_scratch *scratch) {
    for (size_t i = 0; i < MAX_STAGES; i++)
        str_free(&scratch->text[i]);
}

struct run {
    const struct pretokenizer *pretokenizer;
    struct pretokenizer_scratch *scratch;
    struct pattern_scratch *matching;
    const struct piece_sink *sink;
    struct err *err;
};

static int run_stage(const struct run *run, size_t index, const char *text, size_t n, size_t origin);

/* Joins matches and what lies between them as the behaviour says, one segment behind. */
struct cutter {
    const struct run *run;
    size_t index; /* of the next stage */
    enum behaviour behaviour;
    const char *text;
    size_t origin;
    size_t start, end; /* the segment that waits */
    bool waiting, was_match;
};

static int pass_on(const struct cutter *cut, size_t start, size_t end) {
    size_t origin = cut->origin > start ? cut->origin - start : 0;
    return start == end ? OK : run_stage(cut->run, cut->index, cut->text + start, end - start, origin);
}

static bool joins(const struct cutter *cut, bool is_match) {
    switch (cut->behaviour) {
    case CONTIGUOUS: return is_match == cut->was_match;
    case MERGED_WITH_PREVIOUS: return is_match && !cut->was_match;
    case MERGED_WITH_NEXT: return !is_match && cut->was_match;
    default: return false;
    }
}

static int take_segment(struct cutter *cut, size_t start, size_t end, bool is_match) {
    int rc = OK;
    if (cut->behaviour == ISOLATED || cut->behaviour == REMOVED)
        return cut->behaviour == REMOVED && is_match ? OK : pass_on(cut, start, end);
    if (cut->waiting && joins(cut, is_match))
        cut->end = end;
    else {
        if (cut->waiting)
            rc = pass_on(cut, cut->start, cut->end);
        cut->start = start;
        cut->end = end;
    }
    cut->waiting = true;
    cut->was_match = is_match;
    return rc;
}

static int finish(const struct cutter *cut) {
    return cut->waiting ? pass_on(cut, cut->start, cut->end) : OK;
}

static int cut_by_pattern(const struct run *run, size_t index, const char *text, size_t n, size_t origin) {
    const struct stage *stage = &run->pretokenizer->stages[index];
    struct cutter cut = {.run = run, .index = index + 1, .behaviour = stage->behaviour, .text = text, .origin = origin};
    struct pattern_scan scan;
    size_t done = 0;
    bool found;
    int rc;
    pattern_scan_begin(&scan, stage->pattern, run->matching, text, n);
    while ((rc = pattern_scan_next(&scan, &found, run->err)) == OK && found) {
        if (done != scan.start)
            rc = take_segment(&cut, done, scan.start, stage->invert);
        if (rc == OK)
            rc = take_segment(&cut, scan.start, scan.end, !stage->invert);
        if (rc != OK)
            return rc;
        done = scan.end;
    }
    if (rc == OK && done != n)
        rc = take_segment(&cut, done, n, stage->invert);
    return rc == OK ? finish(&cut) : rc;
}

/* Offset of the first number character at or after `at`, n when there is none; *len is its length. */
static size_t next_number(const char *text, size_t n, size_t at, size_t *len) {
    while (at < n) {
        unsigned c = (unsigned char)text[at];
        *len = c < 0x80 ? 1 : utf8_decode(text + at, n - at, &c);
        if (unicode_is_number(c))
            return at;
        at += *len;
    }
    return n;
}

static int cut_by_digits(const struct run *run, size_t index, const char *text, size_t n, size_t origin) {
    const struct stage *stage = &run->pretokenizer->stages[index];
    struct cutter cut = {.run = run, .index = index + 1, .behaviour = stage->behaviour, .text = text, .origin = origin};
    size_t done = 0, at, len = 0;
    int rc = OK;
    while (rc == OK && (at = next_number(text, n, done, &len)) < n) {
        if (done != at)
            rc = take_segment(&cut, done, at, false);
        if (rc == OK)
            rc = take_segment(&cut, at, at + len, true);
        done = at + len;
    }
    if (rc == OK && done != n)
        rc = take_segment(&cut, done, n, false);
    return rc == OK ? finish(&cut) : rc;
}

/* Text that replaces a piece: cut on by this stage's pattern, or passed on whole. */
static int go_on(const struct run *run, size_t index, const char *text, size_t n, size_t origin) {
    if (run->pretokenizer->stages[index].pattern)
        return cut_by_pattern(run, index, text, n, origin);
    return run_stage(run, index + 1, text, n, origin);
}

/* The characters of byte_level.h for a piece, before the stages behind ByteLevel see it. */
static int write_out(const struct run *run, size_t index, const char *text, size_t n, size_t origin) {
    struct str *to = &run->scratch->text[index];
    char utf8[4];
    size_t new_origin = 0;
    str_clear(to);
    for (size_t i = 0; i < n; i++) {
        str_append(to, utf8, utf8_encode(byte_level_char((unsigned char)text[i]), utf8));
        if (i + 1 == origin)
            new_origin = to->len;
    }
    if (to->failed)
        return err_memory(run->err, "a piece of text", n);
    return run_stage(run, index + 1, to->data, to->len, origin > n ? to->len : new_origin);
}

static int write_out_pieces(const struct run *run, size_t index, const char *text, size_t n, size_t origin) {
    const struct stage *stage = &run->pretokenizer->stages[index];
    struct pattern_scan scan;
    bool found;
    int rc;
    if (!stage->pattern)
        return write_out(run, index, text, n, origin);
    pattern_scan_begin(&scan, stage->pattern, run->matching, text, n);
    /* The built-in pattern leaves nothing between its matches. */
    while ((rc = pattern_scan_next(&scan, &found, run->err)) == OK && found) {
        size_t rest = origin > scan.start ? origin - scan.start : 0;
        rc = write_out(run, index, text + scan.start, scan.end - scan.start, rest);
        if (rc != OK)
            return rc;
    }
    return rc;
}

static int run_byte_level(const struct run *run, size_t index, const char *text, size_t n, size_t origin) {
    const struct stage *stage = &run->pretokenizer->stages[index];
    struct str prefixed = {0};
    int rc;
    if (stage->prefix_space && text[0] != ' ') {
        str_putc(&prefixed, ' ');
        str_append(&prefixed, text, n);
        text = prefixed.data;
        n = prefixed.len;
        origin += origin ? 1 : 0;
    }
    if (prefixed.failed)
        rc = err_memory(run->err, "a piece of text", n);
    else
        rc = stage->write_out ? write_out_pieces(run, index, text, n, origin) : go_on(run, index, text, n, origin);
    str_free(&prefixed);
    return rc;
}

static int run_metaspace(const struct run *run, size_t index, const char *text, size_t n, size_t origin) {
    const struct stage *stage = &run->pretokenizer->stages[index];
    struct str *to = &run->scratch->text[index];
    size_t width = stage->replacement_n, new_origin = 0;
    bool has_prefix = text[0] == ' ' || (n >= width && memcmp(text, stage->replacement, width) == 0);
    str_clear(to);
    if (!has_prefix && (stage->prepend == PREPEND_ALWAYS || (stage->prepend == PREPEND_FIRST && origin > 0)))
        str_append(to, stage->replacement, width);
    for (size_t at = 0; at < n;) {
        const char *space = memchr(text + at, ' ', n - at);
        size_t stop = space ? (size_t)(space - text) : n;
        if (at < origin)
            new_origin = to->len + (stop < origin ? stop : origin) - at;
        str_append(to, text + at, stop - at);
        if (space)
            str_append(to, stage->replacement, width);
        if (space && stop < origin)
            new_origin = to->len;
        at = stop + (space ? 1 : 0);
    }
    if (to->failed)
        return err_memory(run->err, "a piece of text", n);
    return go_on(run, index, to->data, to->len, new_origin);
}

static int run_stage(const struct run *run, size_t index, const char *text, size_t n, size_t origin) {
    if (index == run->pretokenizer->n_stages)
        return run->sink->piece(run->sink->self, text, n, run->err);
    switch (run->pretokenizer->stages[index].kind) {
    case STAGE_SPLIT: return cut_by_pattern(run, index, text, n, origin);
    case STAGE_DIGITS: return cut_by_digits(run, index, text, n, origin);
    case STAGE_BYTE_LEVEL: return run_byte_level(run, index, text, n, origin);
    default: return run_metaspace(run, index, text, n, origin);
    }
}

int pretokenizer_run(const struct pretokenizer *pretokenizer, struct pretokenizer_scratch *scratch,
                     struct pattern_scratch *matching, const char *text, size_t n, size_t origin,
                     const struct piece_sink *sink, struct err *err) {
    struct run run = {pretokenizer, scratch, matching, sink, err};
    return n ? run_stage(&run, 0, text, n, origin) : OK;
}
