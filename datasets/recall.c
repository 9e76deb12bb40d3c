#include "datasets/recall.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/rng.h"
#include "base/str.h"

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

#define N_OF(array) (sizeof(array) / sizeof(array)[0])

/* The random numbers of one row. */
struct draws {
    uint64_t seed, row;
    uint32_t n;
};

/* Uniform in [0, n). */
static unsigned draw(struct draws *d, size_t n) {
    enum { RECALL = 0x72656361 }; /* keeps these draws apart from other uses of the seed */
    struct rng_block counter = {{(uint32_t)d->row, (uint32_t)(d->row >> 32), RECALL, d->n++}};
    return (unsigned)((uint64_t)rng_philox(d->seed, counter).v[0] * n >> 32);
}

/* n different numbers below RECALL_MAX_ITEMS. */
static void draw_distinct(struct draws *d, int n, unsigned out[RECALL_MAX_ITEMS]) {
    for (unsigned i = 0; i < RECALL_MAX_ITEMS; i++)
        out[i] = i;
    for (unsigned i = 0; i < (unsigned)n; i++) {
        unsigned j = i + draw(d, RECALL_MAX_ITEMS - i), taken = out[j];
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

static void write_facts(const struct recall_options *o, struct draws *d, struct str *prompt, struct str *completion) {
    unsigned names[RECALL_MAX_ITEMS], codes[RECALL_MAX_ITEMS];
    draw_distinct(d, o->n_items, names);
    for (int i = 0; i < o->n_items; i++) {
        codes[i] = 10 + draw(d, 90);
        str_printf(prompt, "The code of %s is %u. ", NAMES[names[i]], codes[i]);
    }
    put_fillers(prompt, d, o->n_fillers);
    unsigned asked = draw(d, (size_t)o->n_items);
    str_printf(prompt, "Remember the code of %s. It is", NAMES[names[asked]]);
    str_printf(completion, " %u.", codes[asked]);
}

static void write_names(const struct recall_options *o, struct draws *d, struct str *prompt, struct str *completion) {
    unsigned names[RECALL_MAX_ITEMS], surnames[RECALL_MAX_ITEMS];
    draw_distinct(d, o->n_items, names);
    for (int i = 0; i < o->n_items; i++) {
        surnames[i] = draw(d, N_OF(SURNAMES));
        str_printf(prompt, "%s %s is at the %s. ", NAMES[names[i]], SURNAMES[surnames[i]], PLACES[draw(d, N_OF(PLACES))]);
    }
    put_fillers(prompt, d, o->n_fillers);
    unsigned asked = draw(d, (size_t)o->n_items);
    str_printf(prompt, "Then %s", NAMES[names[asked]]);
    str_printf(completion, " %s came back home.", SURNAMES[surnames[asked]]);
}

static void write_copy(const struct recall_options *o, struct draws *d, struct str *prompt, struct str *completion) {
    unsigned things[RECALL_MAX_ITEMS];
    draw_distinct(d, o->n_items, things);
    str_puts(prompt, "Here is a list:");
    for (int i = 0; i < o->n_items; i++)
        str_printf(completion, "%s %s", i ? "," : "", THINGS[things[i]]);
    str_putc(completion, '.');
    str_append(prompt, str_text(completion), completion->len);
    str_putc(prompt, ' ');
    put_fillers(prompt, d, o->n_fillers);
    str_puts(prompt, "Here is the same list again:");
}

static int write_row(FILE *stream, const struct recall_options *o, const struct str *prompt, const struct str *completion,
                     struct err *err) {
    json_t *row = o->plain_text ? json_pack("{s:s+}", "text", str_text(prompt), str_text(completion))
                                : json_pack("{s:s, s:s}", "prompt", str_text(prompt), "completion", str_text(completion));
    if (!row)
        return err_set(err, ERR_MEMORY, "", "out of memory for a row");
    errno = 0;
    bool failed = json_dumpf(row, stream, 0) != 0 || fputc('\n', stream) == EOF;
    int saved = errno ? errno : EIO;
    json_decref(row);
    return failed ? err_errno(err, saved, "", "cannot write a row") : OK;
}

int recall_write(FILE *stream, const struct recall_options *o, struct err *err) {
    static void (*const writers[])(const struct recall_options *, struct draws *, struct str *, struct str *) = {
        write_facts, write_names, write_copy};
    struct str prompt = {0}, completion = {0};
    int rc = OK;
    ASSERT(o->n_items >= RECALL_MIN_ITEMS && o->n_items <= RECALL_MAX_ITEMS);
    ASSERT(o->n_fillers >= 0 && o->n_fillers <= RECALL_MAX_FILLERS);
    for (uint64_t row = 0; rc == OK && row < o->n_rows; row++) {
        struct draws draws = {o->seed, row, 0};
        size_t kind = o->kind == RECALL_MIXED ? (size_t)(row % 3) : (size_t)o->kind - 1;
        str_clear(&prompt);
        str_clear(&completion);
        writers[kind](o, &draws, &prompt, &completion);
        rc = prompt.failed || completion.failed ? err_memory(err, "a row", prompt.len + completion.len)
                                                : write_row(stream, o, &prompt, &completion, err);
    }
    str_free(&prompt);
    str_free(&completion);
    return rc;
}
