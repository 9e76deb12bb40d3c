#include "datasets/recall.h"

#include <stdlib.h>

#include "base/str.h"
#include "datasets/fit.h"
#include "datasets/task_rows.h"

static const char *const NAMES[RECALL_MAX_ITEMS] = {
    "Tom", "Lily", "Ben", "Mia", "Sam", "Sue", "Max", "Anna", "Jack", "Lucy", "Tim", "Sara", "Bob", "Amy", "Leo", "Jane",
    "Fred", "Kate", "Joe", "Emma", "Peter", "Rose", "Dan", "Ella", "Mark", "Nina", "Paul", "Zoe", "Oscar", "Ruth",
    "Adam", "Clara",
};
static const char *const SURNAMES[] = {
    "Hill", "Green", "Stone", "Wood", "Brown", "King", "Field", "Lake", "White", "Fox", "Bell", "Cook", "Day", "Frost",
    "Long", "Moon",
};
static const char *const THINGS[RECALL_MAX_ITEMS] = {
    "cake", "boat", "tree", "ball", "hat", "dog", "cup", "star", "fish", "door", "bird", "shoe", "book", "cat", "drum",
    "leaf", "bell", "rock", "duck", "coat", "kite", "frog", "milk", "ring", "bed", "car", "egg", "lamp", "nut", "sock",
    "toy", "box",
};
static const char *const PLACES[] = {
    "park", "house", "garden", "forest", "shop", "kitchen", "school", "river", "castle", "farm", "street", "tower",
};
static const char *const ADJECTIVES[] = {
    "big", "small", "red", "happy", "old", "funny", "shiny", "brave", "soft", "loud", "green", "sleepy",
};
static const char *const VERBS[] = {
    "ran", "walked", "went", "jumped", "flew", "came", "looked", "rolled",
};

/* What a note can be about, and what it can say. No word stands in two rows, nor among the words of the fillers. */
enum { N_VALUES = 10 };
static const struct {
    const char *name, *values[N_VALUES];
} SUBJECTS[] = {
    {"metal", {"iron", "gold", "silver", "copper", "lead", "tin", "steel", "brass", "bronze", "zinc"}},
    {"month", {"January", "February", "April", "May", "June", "July", "August", "September", "October", "November"}},
    {"day", {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "today", "yesterday", "Christmas"}},
    {"drink", {"tea", "coffee", "wine", "beer", "water", "juice", "cider", "brandy", "rum", "gin"}},
    {"fruit", {"apple", "pear", "plum", "cherry", "grape", "lemon", "orange", "fig", "peach", "melon"}},
    {"country", {"France", "England", "Spain", "Italy", "Russia", "India", "China", "Egypt", "Greece", "Turkey"}},
    {"animal", {"horse", "cow", "sheep", "pig", "goat", "lion", "bear", "wolf", "mouse", "snake"}},
    {"cloth", {"silk", "wool", "cotton", "linen", "velvet", "lace", "leather", "fur", "satin", "muslin"}},
    {"sound", {"whisper", "shout", "cry", "song", "laugh", "sigh", "groan", "hum", "whistle", "scream"}},
    {"weather", {"rain", "snow", "wind", "storm", "sunshine", "fog", "thunder", "hail", "mist", "cloud"}},
    {"trade", {"baker", "smith", "tailor", "miller", "butcher", "sailor", "soldier", "doctor", "lawyer", "painter"}},
    {"part", {"hand", "foot", "arm", "leg", "eye", "ear", "nose", "mouth", "knee", "chin"}},
};

#define N_OF(array) (sizeof(array) / sizeof(array)[0])
_Static_assert(N_OF(SUBJECTS) == RECALL_MAX_NOTES, "recall.h says how many notes a row can have");

/* Invented words: FIRST x SECOND. */
static const char *const FIRST[] = {
    "ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu", "vo",
};
static const char *const SECOND[] = {
    "lan", "mer", "nix", "rol", "sun", "tak", "vel", "zim",
};
enum { N_WORDS = RECALL_MAX_WORDS, N_NUMBERS = 90 };

static void put_word(struct str *s, unsigned i) {
    str_printf(s, " %s%s", FIRST[i / N_OF(SECOND)], SECOND[i % N_OF(SECOND)]);
}

/* n different numbers below n_all. */
static void draw_distinct(struct draws *d, unsigned n_all, int n, unsigned out[N_WORDS]) {
    for (unsigned i = 0; i < n_all; i++)
        out[i] = i;
    for (unsigned i = 0; i < (unsigned)n; i++) {
        unsigned j = i + draw(d, n_all - i), taken = out[j];
        out[j] = out[i];
        out[i] = taken;
    }
}

static void put_fillers(struct str *s, struct draws *d, int n) {
    for (int i = 0; i < n; i++) {
        const char *adjective = ADJECTIVES[draw(d, N_OF(ADJECTIVES))], *thing = THINGS[draw(d, N_OF(THINGS))];
        const char *verb = VERBS[draw(d, N_OF(VERBS))], *place = PLACES[draw(d, N_OF(PLACES))];
        str_printf(s, "The %s %s %s to the %s. ", adjective, thing, verb, place);
    }
}

/* The items asked for, all different. The completion begins with the first answer; later questions stand in it. */
struct questions {
    unsigned asked[N_WORDS];
    int n;
};

static struct questions draw_questions(const struct recall_options *o, struct draws *d) {
    struct questions q = {.n = o->n_queries < o->n_items ? o->n_queries : o->n_items};
    draw_distinct(d, (unsigned)o->n_items, q.n, q.asked);
    return q;
}

static unsigned n_words(const struct recall_options *o) {
    return o->n_words > 0 ? (unsigned)o->n_words : N_WORDS;
}

static void write_facts(const struct recall_options *o, struct draws *d, struct str *prompt, struct str *completion) {
    unsigned names[N_WORDS], codes[RECALL_MAX_ITEMS];
    draw_distinct(d, RECALL_MAX_ITEMS, o->n_items, names);
    for (int i = 0; i < o->n_items; i++) {
        codes[i] = 10 + draw(d, 90);
        str_printf(prompt, "The code of %s is %u. ", NAMES[names[i]], codes[i]);
    }
    put_fillers(prompt, d, o->n_fillers);
    struct questions q = draw_questions(o, d);
    for (int i = 0; i < q.n; i++) {
        str_printf(i ? completion : prompt, "%sRemember the code of %s. It is", i ? " " : "", NAMES[names[q.asked[i]]]);
        str_printf(completion, " %u.", codes[q.asked[i]]);
    }
}

static void write_names(const struct recall_options *o, struct draws *d, struct str *prompt, struct str *completion) {
    unsigned names[N_WORDS], surnames[RECALL_MAX_ITEMS];
    draw_distinct(d, RECALL_MAX_ITEMS, o->n_items, names);
    for (int i = 0; i < o->n_items; i++) {
        surnames[i] = draw(d, N_OF(SURNAMES));
        str_printf(prompt, "%s %s is at the %s. ", NAMES[names[i]], SURNAMES[surnames[i]], PLACES[draw(d, N_OF(PLACES))]);
    }
    put_fillers(prompt, d, o->n_fillers);
    struct questions q = draw_questions(o, d);
    for (int i = 0; i < q.n; i++) {
        str_printf(i ? completion : prompt, "%sThen %s", i ? " " : "", NAMES[names[q.asked[i]]]);
        str_printf(completion, " %s came back home.", SURNAMES[surnames[q.asked[i]]]);
    }
}

static void write_copy(const struct recall_options *o, struct draws *d, struct str *prompt, struct str *completion) {
    unsigned things[N_WORDS];
    draw_distinct(d, RECALL_MAX_ITEMS, o->n_items, things);
    str_puts(prompt, "Here is a list:");
    for (int i = 0; i < o->n_items; i++)
        str_printf(completion, "%s %s", i ? "," : "", THINGS[things[i]]);
    str_putc(completion, '.');
    str_append(prompt, str_text(completion), completion->len);
    str_putc(prompt, ' ');
    put_fillers(prompt, d, o->n_fillers);
    str_puts(prompt, "Here is the same list again:");
}

static void write_pairs(const struct recall_options *o, struct draws *d, struct str *prompt, struct str *completion) {
    unsigned words[N_WORDS], numbers[RECALL_MAX_ITEMS], n_numbers = n_words(o) < N_NUMBERS ? n_words(o) : N_NUMBERS;
    draw_distinct(d, n_words(o), o->n_items, words);
    str_puts(prompt, "Pairs:");
    for (int i = 0; i < o->n_items; i++) {
        numbers[i] = 10 + draw(d, n_numbers);
        put_word(prompt, words[i]);
        str_printf(prompt, " %u%s", numbers[i], i + 1 < o->n_items ? "," : ". ");
    }
    put_fillers(prompt, d, o->n_fillers);
    struct questions q = draw_questions(o, d);
    str_puts(prompt, "Again:");
    for (int i = 0; i < q.n; i++) {
        put_word(i ? completion : prompt, words[q.asked[i]]);
        str_printf(completion, " %u%s", numbers[q.asked[i]], i + 1 < q.n ? "," : ".");
    }
}

static void write_series(const struct recall_options *o, struct draws *d, struct str *prompt, struct str *completion) {
    unsigned words[N_WORDS];
    draw_distinct(d, n_words(o), o->n_items, words);
    for (int i = 1; i < o->n_items; i++)
        put_word(completion, words[i]);
    str_putc(completion, '.');
    str_puts(prompt, "Words:");
    put_word(prompt, words[0]);
    str_printf(prompt, "%s ", str_text(completion));
    put_fillers(prompt, d, o->n_fillers);
    str_puts(prompt, "Again:");
    put_word(prompt, words[0]);
}

static void write_notes(const struct recall_options *o, struct draws *d, struct str *prompt, struct str *completion) {
    unsigned subjects[N_WORDS], values[RECALL_MAX_NOTES];
    draw_distinct(d, RECALL_MAX_NOTES, o->n_items, subjects);
    for (int i = 0; i < o->n_items; i++) {
        values[i] = draw(d, N_VALUES);
        str_printf(prompt, "The %s is %s. ", SUBJECTS[subjects[i]].name, SUBJECTS[subjects[i]].values[values[i]]);
    }
    put_fillers(prompt, d, o->n_fillers);
    struct questions q = draw_questions(o, d);
    for (int i = 0; i < q.n; i++) {
        unsigned asked = q.asked[i];
        str_printf(i ? completion : prompt, "%sThe %s was", i ? " " : "", SUBJECTS[subjects[asked]].name);
        str_printf(completion, " %s.", SUBJECTS[subjects[asked]].values[values[asked]]);
    }
}

/* The row in work. */
struct row {
    const struct recall_options *options;
    struct draws draws; /* where every build of it begins */
    struct str prompt, completion, text;
    struct token_list ids;
};

static void build_row(struct row *row, int n_fillers) {
    static void (*const writers[])(const struct recall_options *, struct draws *, struct str *, struct str *) = {
        write_facts, write_names, write_copy, write_pairs, write_series, write_notes};
    struct recall_options o = *row->options;
    struct draws draws = row->draws;
    size_t kind = o.kind == RECALL_MIXED ? (size_t)(draws.row % 3) : (size_t)o.kind - 1;
    int n_before = (int)((int64_t)n_fillers * o.depth / 100);
    str_clear(&row->prompt);
    str_clear(&row->completion);
    put_fillers(&row->prompt, &draws, n_before);
    o.n_fillers = n_fillers - n_before;
    writers[kind](&o, &draws, &row->prompt, &row->completion);
}

static int row_length(void *self, size_t n_fillers, size_t *n_tok, struct err *err) {
    struct row *row = self;
    size_t n_prefix, n_suffix;
    build_row(row, (int)n_fillers);
    str_clear(&row->text);
    str_append(&row->text, str_text(&row->prompt), row->prompt.len);
    str_append(&row->text, str_text(&row->completion), row->completion.len);
    row->ids.len = 0;
    int rc = row->text.failed ? err_memory(err, "a row", row->text.len)
                              : tokenizer_encode(row->options->tokenizer, str_text(&row->text), row->text.len, &row->ids,
                                                 err);
    tokenizer_prefix(row->options->tokenizer, &n_prefix);
    tokenizer_suffix(row->options->tokenizer, &n_suffix);
    *n_tok = row->ids.len + n_prefix + n_suffix;
    return rc;
}

static int fit_row(struct row *row, struct err *err) {
    int length = row->options->length;
    struct fit fit = {.most = RECALL_MAX_FILLERS, .target = (size_t)length, .length = row_length, .self = row};
    size_t n_fillers, n_tok;
    bool fits;
    int rc = fit_largest(&fit, &n_fillers, &fits, &n_tok, err);
    if (rc == OK && !fits)
        rc = err_set(err, ERR_USAGE, "--length", "%d tokens are too few: a row without fillers has %zu (take fewer --items)",
                     length, n_tok);
    return rc;
}

int recall_write(FILE *stream, const struct recall_options *o, struct err *err) {
    enum { RECALL = 0x72656361 };
    struct row row = {.options = o};
    int rc = OK;
    ASSERT(o->n_items >= RECALL_MIN_ITEMS && o->n_items <= RECALL_MAX_ITEMS);
    ASSERT(o->kind != RECALL_NOTES || o->n_items <= RECALL_MAX_NOTES);
    ASSERT(o->n_words == 0 || (o->n_words >= o->n_items && o->n_words <= RECALL_MAX_WORDS));
    ASSERT(o->n_fillers >= 0 && o->n_fillers <= RECALL_MAX_FILLERS);
    ASSERT(o->n_queries >= 1 && o->depth >= 0 && o->depth <= 100);
    for (uint64_t i = 0; rc == OK && i < o->n_rows; i++) {
        row.draws = (struct draws){o->seed, i, RECALL, 0};
        if (o->length)
            rc = fit_row(&row, err);
        else
            build_row(&row, o->n_fillers);
        if (rc == OK)
            rc = task_row_write(stream, &row.prompt, &row.completion, o->plain_text, err);
    }
    str_free(&row.prompt);
    str_free(&row.completion);
    str_free(&row.text);
    free(row.ids.data);
    return rc;
}
