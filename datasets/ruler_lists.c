/* Variables to follow, and words to count. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "datasets/ruler_internal.h"
#include "datasets/word_list.h"

/* --- vt: a chain of assignments between lines of noise --- */

enum { CHAIN = 5 /* variables: 4 hops */, EXAMPLE_LINES = 10, MAX_LETTERS = 6 };

/* n different words of random letters, beginning with `first`. */
static void draw_codes(struct draws *d, char first, int n_letters, size_t n, char (*out)[MAX_LETTERS + 1]) {
    for (size_t i = 0; i < n;) {
        bool seen = false;
        for (int letter = 0; letter < n_letters; letter++)
            out[i][letter] = (char)(first + (char)draw(d, 26));
        out[i][n_letters] = 0;
        for (size_t before = 0; before < i && !seen; before++)
            seen = strcmp(out[before], out[i]) == 0;
        i += !seen;
    }
}

static void put_chain(struct draws *d, int n_letters, size_t n_lines, char (*names)[MAX_LETTERS + 1], struct str *in,
                      struct str *prefix) {
    size_t place[CHAIN], next = 0;
    unsigned value = 10000 + draw(d, 90000);
    draw_codes(d, 'A', n_letters, CHAIN, names);
    ruler_draw_rising(d, n_lines, CHAIN, place);
    str_puts(in, "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n");
    for (size_t line = 0; line < n_lines; line++) {
        if (next < CHAIN && place[next] == line) {
            if (next == 0)
                str_printf(in, "VAR %s = %u\n", names[0], value);
            else
                str_printf(in, "VAR %s = VAR %s\n", names[next], names[next - 1]);
            next++;
        }
        str_printf(in, "%s\n", ruler_noise);
    }
    str_printf(in, "Question: Find all variables that are assigned the value %u in the text above.", value);
    str_printf(prefix,
               " Answer: According to the chain(s) of variable assignment in the text above, %d variables are assigned the "
               "value %u, they are: ",
               CHAIN, value);
}

void ruler_build_chain(const struct ruler_plan *plan, size_t n_units, struct ruler_sample *out) {
    struct draws d = plan->draws;
    char names[CHAIN][MAX_LETTERS + 1];
    put_chain(&d, 3, EXAMPLE_LINES, names, &out->input, &out->input); /* solved, so that the task is clear */
    for (int i = 0; i < CHAIN; i++)
        str_printf(&out->input, "%s%s", names[i], i + 1 < CHAIN ? " " : "\n\n");
    put_chain(&d, 5, n_units, names, &out->input, &out->prefix);
    for (int i = 0; i < CHAIN; i++)
        ruler_put_output(out, names[i]);
}

size_t ruler_least_chain(const struct ruler_plan *plan) {
    (void)plan;
    return CHAIN;
}

/* --- cwe: the words that stand more often in a numbered list --- */

enum { N_COMMON = 10 };

/* How many words the solved example has, and how often common and other words stand. */
struct repeats {
    size_t n_example;
    int common, other, main_common, main_other;
};

static struct repeats repeats_for(int length) {
    return length < 4096 ? (struct repeats){20, 3, 1, 6, 1} : (struct repeats){40, 10, 3, 30, 3};
}

/* The list of words first .. first + n of the row's order of all words, the first N_COMMON of them the common ones. */
static void put_list(const struct ruler_plan *plan, struct draws *d, size_t first, size_t n, int n_common, int n_other,
                     struct str *in) {
    size_t n_items = N_COMMON * (size_t)n_common + (n - N_COMMON) * (size_t)n_other, at = 0;
    size_t *items = mem_alloc(n_items, sizeof *items, "a list", NULL);
    str_puts(in, "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones "
                 "that appear most often.\n");
    if (!items) {
        in->failed = true;
        return;
    }
    for (size_t word = 0; word < n; word++)
        for (int i = 0; i < (word < N_COMMON ? n_common : n_other); i++)
            items[at++] = first + word;
    ruler_shuffle(d, items, n_items);
    for (size_t i = 0; i < n_items; i++) {
        str_printf(in, "%s%zu. ", i ? " " : "", i + 1);
        word_put_distinct(in, plan->draws.seed, plan->draws.row, items[i]);
    }
    str_puts(in, "\nQuestion: What are the 10 most common words in the above list?");
    free(items);
}

void ruler_build_common(const struct ruler_plan *plan, size_t n_units, struct ruler_sample *out) {
    static const char answer[] = " Answer: The top 10 words that appear most often in the list are:";
    struct repeats r = repeats_for(plan->options->length);
    struct draws d = plan->draws;
    struct str word = {0}, *in = &out->input;
    put_list(plan, &d, 0, r.n_example, r.common, r.other, in);
    str_puts(in, answer);
    for (size_t i = 0; i < N_COMMON; i++) {
        str_printf(in, " %zu. ", i + 1);
        word_put_distinct(in, plan->draws.seed, plan->draws.row, i);
    }
    str_putc(in, '\n');
    put_list(plan, &d, r.n_example, n_units, r.main_common, r.main_other, in);
    str_puts(&out->prefix, answer);
    for (size_t i = 0; i < N_COMMON; i++) {
        str_clear(&word);
        word_put_distinct(&word, plan->draws.seed, plan->draws.row, r.n_example + i);
        ruler_put_output(out, str_text(&word));
    }
    in->failed |= word.failed;
    str_free(&word);
}

size_t ruler_least_common(const struct ruler_plan *plan) {
    (void)plan;
    return 2 * N_COMMON;
}

size_t ruler_most_common(const struct ruler_plan *plan) {
    return WORD_LIST_MAX - repeats_for(plan->options->length).n_example;
}

/* --- fwe: coded words whose counts fall with the square of their rank --- */

enum { N_LETTERS = 6, N_ANSWERS = 3, LEAST_WORDS = 60 /* from here on ranks 1 to 5 differ in count */, LEAST_CODES = 6 };

/* Words of rank 1, 2, ... among n_words: n_words / (rank^2 zeta(2)), rounded down. */
static size_t rank_count(size_t n_words, size_t rank) {
    const double one_of_zeta2 = 0.60792710185402662866; /* 6 / pi^2 */
    return (size_t)((double)n_words * one_of_zeta2 / (double)(rank * rank));
}

void ruler_build_frequent(const struct ruler_plan *plan, size_t n_units, struct ruler_sample *out) {
    size_t most = (size_t)plan->options->length / 50, n_codes = 0, n_items = 0, at = 0;
    most = most < LEAST_CODES ? LEAST_CODES : most;
    struct draws d = plan->draws;
    struct str *in = &out->input;
    ASSERT(n_units >= LEAST_WORDS);
    for (; n_codes < most && rank_count(n_units, n_codes + 1) > 0; n_codes++)
        n_items += rank_count(n_units, n_codes + 1);
    char (*code)[MAX_LETTERS + 1] = mem_alloc(n_codes, sizeof *code, "coded words", NULL);
    size_t *items = mem_alloc(n_items, sizeof *items, "coded words", NULL);
    if (code && items) {
        draw_codes(&d, 'a', N_LETTERS, n_codes, code);
        for (size_t rank = 1; rank <= n_codes; rank++)
            for (size_t i = rank_count(n_units, rank); i > 0; i--)
                items[at++] = rank - 1;
        ruler_shuffle(&d, items, n_items);
        str_puts(in, "Read the following coded text and track the frequency of each coded word. Find the three most "
                     "frequently appeared coded words.");
        for (size_t i = 0; i < n_items; i++)
            str_printf(in, " %s", items[i] ? code[items[i]] : "..."); /* the first rank is noise */
        str_puts(in, "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most "
                     "frequently appeared words in the above coded text?");
        str_puts(&out->prefix,
                 " Answer: According to the coded text above, the three most frequently appeared words are:");
        for (size_t i = 1; i <= N_ANSWERS; i++)
            ruler_put_output(out, code[i]);
    }
    in->failed |= !code || !items;
    free(code);
    free(items);
}

size_t ruler_least_frequent(const struct ruler_plan *plan) {
    (void)plan;
    return LEAST_WORDS;
}
