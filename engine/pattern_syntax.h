/* pattern_syntax.h - the regular expressions of tokenizer.json, written for Oniguruma with Ruby's syntax, rewritten for
 * PCRE2. Only what means the same in both engines passes; everything else is refused by name.
 *
 * Rewritten: \s \S \w \W \d \D \h \H and \v (PCRE2 has other sets behind these letters), scripts (PCRE2 would take
 * script extensions), \uHHHH, {,n}; groups become non-capturing, since nothing refers to them. Refused: nested classes and
 * &&, POSIX brackets, \b \B \R \X \G \K \Z, back references, named groups, options other than i, {n}? and {n,m}+, and
 * under (?i) what Oniguruma would match through folds of several characters. */
#ifndef SPKV_ENGINE_PATTERN_SYNTAX_H
#define SPKV_ENGINE_PATTERN_SYNTAX_H

#include "base/err.h"
#include "base/str.h"

/* Appends the PCRE2 pattern (for PCRE2_UTF, PCRE2_UCP, PCRE2_MULTILINE and newline LF) to *out; ERR_INPUT at `where`. */
int pattern_translate(const char *regex, size_t n, const char *where, struct str *out, struct err *err);

#endif
