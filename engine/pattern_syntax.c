#include "engine/pattern_syntax.h"

#include <ctype.h>
#include <string.h>

enum { MAX_DEPTH = 200 }; /* PCRE2 itself stops at 250 nested groups */

/* Oniguruma's \w: Alphabetic, M, Nd, Pc, and the number signs of Latin-1. */
#define WORD_SET                                                                                                          \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}\\x{24B6}-\\x{24E9}"                            \
    "\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}"

struct reader {
    const char *text;
    size_t n, at;
    const char *where;
    struct str *out;
    struct err *err;
    bool caseless[MAX_DEPTH];
    int depth;
    char last_letter; /* lower-case ASCII letter just before, under (?i); else 0 */
};

static bool has(const struct reader *r, const char *prefix) {
    size_t n = strlen(prefix);
    return r->n - r->at >= n && memcmp(r->text + r->at, prefix, n) == 0;
}

static int peek(const struct reader *r, size_t ahead) {
    return r->at + ahead < r->n ? (unsigned char)r->text[r->at + ahead] : -1;
}

static int refuse(struct reader *r, const char *what) {
    return err_set(r->err, ERR_INPUT, r->where,
                   "regular expression \"%.*s\": %s at byte %zu is not supported\n"
                   "(rewrite the pattern without it, or use a tokenizer.json of the same vocabulary that has none)",
                   r->n > 300 ? 300 : (int)r->n, r->text, what, r->at);
}

static bool caseless(const struct reader *r) {
    return r->caseless[r->depth];
}

static bool is_category(const char *name, size_t n) {
    static const char *const names[] = {"C",  "Cc", "Cf", "Cn", "Co", "L",  "Ll", "Lm", "Lo", "Lt", "Lu", "M",
                                        "Mc", "Me", "Mn", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Pe", "Pf",
                                        "Pi", "Po", "Ps", "S",  "Sc", "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == n && memcmp(names[i], name, n) == 0)
            return true;
    return false;
}

/* Names that Oniguruma reads as POSIX brackets or properties, not as scripts. */
static bool is_plain_script(const char *name, size_t n) {
    if (n < 3)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isalpha((unsigned char)name[i]) && name[i] != '_')
            return false;
    return true; /* PCRE2 refuses what is not a script behind "sc:" */
}

/* \p{...} or \P{...}, with r->at on the letter. */
static int read_property(struct reader *r) {
    bool negated = r->text[r->at] == 'P';
    if (peek(r, 1) != '{')
        return refuse(r, "a property without braces");
    const char *name = r->text + r->at + 2, *end = memchr(name, '}', r->n - r->at - 2);
    if (!end)
        return refuse(r, "an unfinished property");
    if (*name == '^') {
        negated = !negated;
        name++;
    }
    size_t n = (size_t)(end - name);
    bool category = is_category(name, n);
    if (caseless(r) && category && n == 2 && name[0] == 'L' && strchr("ult", name[1]))
        return refuse(r, "a case property under (?i)");
    if (!category && !is_plain_script(name, n))
        return refuse(r, "this property");
    str_printf(r->out, "\\%c{%s%.*s}", negated ? 'P' : 'p', category ? "" : "sc:", (int)n, name);
    r->at = (size_t)(end - r->text) + 1;
    return OK;
}

/* \x.. \x{...} \u...., with r->at on the letter: one character. */
static int read_code(struct reader *r) {
    bool braces = r->text[r->at] == 'x' && peek(r, 1) == '{';
    size_t begin = r->at + (braces ? 2 : 1), n = 0, max = braces ? 8 : r->text[r->at] == 'u' ? 4 : 2;
    unsigned long code = 0;
    for (; n < max && begin + n < r->n && isxdigit((unsigned char)r->text[begin + n]); n++) {
        int c = tolower((unsigned char)r->text[begin + n]);
        code = code * 16 + (unsigned long)(isdigit(c) ? c - '0' : c - 'a' + 10);
    }
    bool closed = !braces || (begin + n < r->n && r->text[begin + n] == '}');
    if (n == 0 || !closed || (r->text[r->at] == 'u' && n != 4))
        return refuse(r, "an unfinished character code");
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) || (!braces && r->text[r->at] == 'x' && code >= 0x80))
        return refuse(r, "this character code");
    if (caseless(r) && code >= 0x80)
        return refuse(r, "a character beyond ASCII under (?i)");
    str_printf(r->out, "\\x{%lX}", code);
    r->at = begin + n + (braces ? 1 : 0);
    return OK;
}

/* The set behind \s and the like, to be put into brackets, or NULL. */
static const char *set_of(int letter) {
    switch (tolower(letter)) {
    case 's': return "\\p{White_Space}";
    case 'd': return "\\p{Nd}";
    case 'h': return "0-9A-Fa-f";
    case 'w': return WORD_SET;
    default: return NULL;
    }
}

/* An escape, with r->at on the character after the backslash. *is_set: it stands for more than one character. */
static int read_escape(struct reader *r, bool in_class, bool *is_set) {
    int c = peek(r, 0);
    *is_set = c == 'p' || c == 'P' || (c > 0 && set_of(c));
    if (c == 'p' || c == 'P')
        return read_property(r);
    if (c == 'x' || c == 'u')
        return read_code(r);
    if (c > 0 && set_of(c)) {
        if (in_class && isupper(c) && c != 'S' && c != 'D')
            return refuse(r, "a negated set inside a class");
        if (c == 'S' || c == 'D')
            str_puts(r->out, c == 'S' ? "\\P{White_Space}" : "\\P{Nd}");
        else if (in_class)
            str_puts(r->out, set_of(c));
        else
            str_printf(r->out, "[%s%s]", isupper(c) ? "^" : "", set_of(c));
    } else if (c == 'v')
        str_puts(r->out, "\\x{B}");
    else if (c > 0 && (strchr("nrtfae", c) || (!in_class && strchr("Az", c)) || (c < 0x80 && ispunct(c))))
        str_printf(r->out, "\\%c", c);
    else if (c == ' ')
        str_putc(r->out, ' ');
    else
        return refuse(r, "this escape");
    r->at++;
    return OK;
}

/* A literal character, anywhere. */
static int read_literal(struct reader *r) {
    char c = r->text[r->at];
    if (caseless(r)) {
        char lower = (char)tolower((unsigned char)c), pair[3] = {r->last_letter, lower, 0};
        if (c & 0x80)
            return refuse(r, "a character beyond ASCII under (?i)");
        if (r->last_letter && strstr("ss ff fi fl st", pair))
            return refuse(r, "ss, ff, fi, fl or st under (?i)");
        r->last_letter = islower((unsigned char)lower) ? lower : 0;
    }
    str_putc(r->out, c);
    r->at++;
    return OK;
}

/* One member of a class or one end of a range. */
static int read_member(struct reader *r, bool *is_set) {
    int rc = OK;
    *is_set = false;
    if (peek(r, 0) == '[')
        return refuse(r, "a class inside a class");
    if (has(r, "&&"))
        return refuse(r, "&&");
    if (peek(r, 0) == '\\') {
        r->at++;
        rc = read_escape(r, true, is_set);
    } else
        rc = read_literal(r);
    r->last_letter = 0;
    return rc;
}

/* [...], with r->at on the bracket. */
static int read_class(struct reader *r) {
    bool is_set = false, first = true;
    int rc = OK;
    str_putc(r->out, '[');
    r->at++;
    if (peek(r, 0) == '^') {
        str_putc(r->out, '^');
        r->at++;
    }
    if (peek(r, 0) == ']')
        return refuse(r, "] as the first member of a class");
    while (rc == OK && peek(r, 0) != ']') {
        if (r->at >= r->n)
            return refuse(r, "an unfinished class");
        if (peek(r, 0) == '-' && !first && peek(r, 1) != ']') {
            if (is_set)
                return refuse(r, "a range from a set");
            str_putc(r->out, '-');
            r->at++;
            rc = read_member(r, &is_set);
            if (rc == OK && is_set)
                return refuse(r, "a range to a set");
            if (rc == OK && peek(r, 0) == '-' && peek(r, 1) != ']')
                return refuse(r, "a range after a range");
        } else
            rc = read_member(r, &is_set);
        first = false;
    }
    str_putc(r->out, ']');
    r->at++;
    return rc;
}

/* The opening of a group, with r->at on the parenthesis. */
static int read_group(struct reader *r) {
    static const char *const plain[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    bool fold = caseless(r);
    size_t n = 1;
    const char *opening = "(?:";
    if (has(r, "(?i)")) {
        if (r->at != 0)
            return refuse(r, "(?i) anywhere but at the beginning");
        r->caseless[r->depth] = true;
        str_puts(r->out, "(?i)");
        r->at += 4;
        return OK;
    }
    if (has(r, "(?i:") || has(r, "(?-i:")) {
        fold = has(r, "(?i:");
        n = fold ? 4 : 5;
        opening = fold ? "(?i:" : "(?-i:";
    } else if (peek(r, 1) == '?') {
        size_t i = 0, n_plain = sizeof plain / sizeof *plain;
        while (i < n_plain && !has(r, plain[i]))
            i++;
        if (i == n_plain)
            return refuse(r, "this kind of group");
        opening = plain[i];
        n = strlen(opening);
    }
    if (r->depth + 1 == MAX_DEPTH)
        return refuse(r, "nesting this deep");
    r->caseless[++r->depth] = fold;
    str_puts(r->out, opening);
    r->at += n;
    return OK;
}

/* {n}, {n,}, {,m}, {n,m}, with r->at on the brace. */
static int read_interval(struct reader *r) {
    size_t low = 0, high = 0;
    bool comma = false;
    while (isdigit(peek(r, 1 + low)))
        low++;
    comma = peek(r, 1 + low) == ',';
    while (comma && isdigit(peek(r, 2 + low + high)))
        high++;
    size_t n = low + (comma ? 1 : 0) + high;
    if (peek(r, 1 + n) != '}' || low + high == 0 || low > 5 || high > 5)
        return refuse(r, "{ that opens no repetition");
    int next = peek(r, 2 + n);
    if (next == '+' || (next == '?' && !comma))
        return refuse(r, "a repetition followed by + or ?");
    str_printf(r->out, "{%s%.*s}", low ? "" : "0", (int)n, r->text + r->at + 1);
    r->at += n + 2;
    return OK;
}

static int read_one(struct reader *r) {
    bool is_set;
    switch (r->text[r->at]) {
    case '\\':
        r->last_letter = 0;
        r->at++;
        return read_escape(r, false, &is_set);
    case '[':
        r->last_letter = 0;
        return read_class(r);
    case '(':
        return read_group(r);
    case '{':
        return read_interval(r);
    case ')':
        if (r->depth == 0)
            return refuse(r, ") without (");
        r->depth--;
        break;
    case '|':
        r->last_letter = 0;
        break;
    case '?':
    case '*':
    case '+':
    case '^':
    case '$':
    case '.':
        break;
    default:
        return read_literal(r);
    }
    str_putc(r->out, r->text[r->at++]);
    return OK;
}

int pattern_translate(const char *regex, size_t n, const char *where, struct str *out, struct err *err) {
    struct reader r = {.text = regex, .n = n, .where = where, .out = out, .err = err};
    int rc = OK;
    while (rc == OK && r.at < n)
        rc = read_one(&r);
    if (rc == OK && r.depth > 0)
        rc = refuse(&r, "( without )");
    if (rc == OK && out->failed)
        rc = err_memory(err, "a regular expression", n);
    return rc;
}
