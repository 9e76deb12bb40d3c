/* pattern.h - what Split and Replace look for: a literal string, or a regular expression in Oniguruma's syntax run by PCRE2
 * with JIT. A pattern is immutable; any number of threads may scan with it, each with its own scan and scratch. */
#ifndef SPKV_ENGINE_PATTERN_H
#define SPKV_ENGINE_PATTERN_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct pattern;
struct pattern_scratch; /* match data of one thread */

/* From {"String": "..."} or {"Regex": "..."}. `where` is the place for messages. */
int pattern_parse(const json_t *object, const char *where, struct pattern **out, struct err *err);
int pattern_from_regex(const char *regex, size_t n, const char *where, struct pattern **out, struct err *err);
void pattern_free(struct pattern *pattern);

int pattern_scratch_create(struct pattern_scratch **out, struct err *err);
void pattern_scratch_free(struct pattern_scratch *scratch);

/* A walk over the matches in text[0..n), which must be valid UTF-8 and stay until the end of the walk. */
struct pattern_scan {
    const struct pattern *pattern;
    struct pattern_scratch *scratch;
    const char *text;
    size_t n, from;
    size_t start, end; /* the match just found */
    size_t last_end;   /* end of the match before, SIZE_MAX = none */
};

void pattern_scan_begin(struct pattern_scan *scan, const struct pattern *pattern, struct pattern_scratch *scratch,
                        const char *text, size_t n);

/* Finds the next match, leftmost, not overlapping. An empty match right behind another is skipped, as Oniguruma's Rust
 * binding does. ERR_INPUT when PCRE2 gives up (its match limit). */
int pattern_scan_next(struct pattern_scan *scan, bool *found, struct err *err);

#endif
