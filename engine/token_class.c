#include "engine/token_class.h"

#include <stdbool.h>
#include <stdlib.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "base/str.h"
#include "engine/unicode_class.h"

/* Low bits: the class, a word as TOKEN_WORD_PART; above: what the neighbours need. */
enum { CLASS_MASK = 15, BEGINS_WITH_SPACE = 16, ENDS_IN_WORD = 32 };

struct token_classes {
    uint8_t *table; /* (n) */
    size_t n;
};

const char *token_class_name(enum token_class class) {
    static const char *const names[N_TOKEN_CLASSES] = {"special",    "byte",      "space",       "digit",
                                                       "word_start", "word_part", "punctuation", "other"};
    ASSERT((unsigned)class < N_TOKEN_CLASSES);
    return names[class];
}

static bool is_letter(utf8proc_category_t category) {
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_ME;
}

static bool is_number(utf8proc_category_t category) {
    return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

static bool is_punctuation(utf8proc_category_t category) {
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_SK;
}

static uint8_t classify(const char *text, size_t n) {
    bool letter = false, number = false, punctuation = false, space = true, first_space = false, ends_in_word = false;
    if (n == 0)
        return TOKEN_OTHER;
    if (utf8_first_invalid(text, n) < n)
        return TOKEN_BYTE;
    for (size_t at = 0, len; at < n; at += len) {
        unsigned c;
        len = utf8_decode(text + at, n - at, &c);
        utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
        letter |= is_letter(category);
        number |= is_number(category);
        punctuation |= is_punctuation(category);
        space &= unicode_is_space(c);
        if (at == 0)
            first_space = unicode_is_space(c);
        ends_in_word = is_letter(category) || is_number(category);
    }
    int class = space ? TOKEN_SPACE : letter ? TOKEN_WORD_PART : number ? TOKEN_DIGIT : punctuation ? TOKEN_PUNCTUATION
                                                                                                    : TOKEN_OTHER;
    return (uint8_t)(class | (first_space ? BEGINS_WITH_SPACE : 0) | (ends_in_word ? ENDS_IN_WORD : 0));
}

int token_classes_create(const struct tokenizer *tokenizer, struct token_classes **out, struct err *err) {
    size_t n = tokenizer_n_vocab(tokenizer);
    *out = NULL;
    struct token_classes *classes = mem_alloc(1, sizeof *classes, "token classes", err);
    uint8_t *table = mem_alloc(n, sizeof *table, "token classes", err);
    if (!classes || !table) {
        free(classes);
        free(table);
        return ERR_MEMORY;
    }
    for (size_t id = 0; id < n; id++) {
        size_t len;
        const char *text = tokenizer_token_bytes(tokenizer, (int32_t)id, &len);
        table[id] = tokenizer_is_special(tokenizer, (int32_t)id) ? TOKEN_SPECIAL : classify(text, len);
    }
    *classes = (struct token_classes){table, n};
    *out = classes;
    return OK;
}

void token_classes_free(struct token_classes *classes) {
    if (!classes)
        return;
    free(classes->table);
    free(classes);
}

static uint8_t entry(const struct token_classes *classes, int32_t id) {
    return id >= 0 && (size_t)id < classes->n ? classes->table[id] : TOKEN_OTHER;
}

static enum token_class class_after(uint8_t previous, uint8_t here) {
    enum token_class class = (enum token_class)(here & CLASS_MASK);
    bool starts = (here & BEGINS_WITH_SPACE) || !(previous & ENDS_IN_WORD);
    return class == TOKEN_WORD_PART && starts ? TOKEN_WORD_START : class;
}

enum token_class token_class_of(const struct token_classes *classes, int32_t previous, int32_t id) {
    return class_after(entry(classes, previous), entry(classes, id));
}

void token_classes_fill(const struct token_classes *classes, const int32_t *ids, size_t n, uint8_t *out) {
    uint8_t previous = TOKEN_OTHER;
    for (size_t i = 0; i < n; i++) {
        uint8_t here = entry(classes, ids[i]);
        out[i] = (uint8_t)class_after(previous, here);
        previous = here;
    }
}
