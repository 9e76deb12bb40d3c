#include "datasets/palindrome.h"

#include "base/str.h"
#include "datasets/task_rows.h"

/* 50 tokens. Each is one entry of datasets/palindrome/tokenizer.json. */
static const char *const INSTRUCTION[] = {
    " Here", " the", " numbers", " end", ".",
    " Now", " write", " all", " of", " them", " once", " more", ",", " but", " in", " reverse", " order", ":",
    " the", " last", " one", " comes", " first", ",", " then", " the", " one", " before", " it", ",",
    " and", " so", " on", ",", " until", " you", " reach", " the", " one", " that", " stood", " at", " the", " very",
    " beginning", " of", " this", " text", ".",
    " Answer",
};

enum { N_INSTRUCTION = sizeof INSTRUCTION / sizeof *INSTRUCTION };

static void put_row(const struct palindrome_options *o, struct draws *d, struct str *prompt, struct str *completion) {
    unsigned items[PALINDROME_MAX_ITEMS];
    for (int i = 0; i < o->n_items; i++) {
        items[i] = 10 + draw(d, 90);
        str_printf(prompt, " %u", items[i]);
    }
    for (int i = 0; i < o->n_instruction; i++)
        str_puts(prompt, INSTRUCTION[i % N_INSTRUCTION]);
    for (int i = o->n_items - 1; i >= 0; i--)
        str_printf(completion, " %u", items[i]);
}

int palindrome_write(FILE *stream, const struct palindrome_options *o, struct err *err) {
    enum { PALINDROME = 0x70616c69 };
    struct str prompt = {0}, completion = {0};
    int rc = OK;
    _Static_assert(N_INSTRUCTION == 50, "the instruction of method.md section 9");
    ASSERT(o->n_items >= 1 && o->n_items <= PALINDROME_MAX_ITEMS);
    ASSERT(o->n_instruction >= 0 && o->n_instruction <= PALINDROME_MAX_INSTRUCTION);
    for (uint64_t row = 0; rc == OK && row < o->n_rows; row++) {
        struct draws draws = {o->seed, row, PALINDROME, 0};
        str_clear(&prompt);
        str_clear(&completion);
        put_row(o, &draws, &prompt, &completion);
        rc = task_row_write(stream, &prompt, &completion, o->plain_text, err);
    }
    str_free(&prompt);
    str_free(&completion);
    return rc;
}
