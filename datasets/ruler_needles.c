#include <string.h>

#include "datasets/ruler_internal.h"
#include "datasets/word_list.h"

struct needles {
    struct str key[NEEDLES_MAX], value[NEEDLES_MAX]; /* value[k * n_values + v] */
    size_t order[NEEDLES_MAX];                       /* needles as they stand in the text */
    size_t n;
};

static const char *const KINDS[] = {[PART_WORD] = "words", [PART_NUMBER] = "numbers", [PART_UUID] = "uuids"};

static void put_number(struct str *s, struct draws *d) {
    str_printf(s, "%u", 1000000 + draw(d, 9000000));
}

/* Version 4 (RFC 4122): random but for the digit that says so. */
static void put_uuid(struct str *s, struct draws *d) {
    for (int digit = 0; digit < 32; digit++) {
        if (digit == 8 || digit == 12 || digit == 16 || digit == 20)
            str_putc(s, '-');
        unsigned hex = digit == 12 ? 4 : digit == 16 ? 8 + draw(d, 4) : draw(d, 16);
        str_printf(s, "%x", hex);
    }
}

static void put_word(struct str *s, struct draws *d) {
    str_printf(s, "%s-", word_adjective(d));
    str_puts(s, word_noun(d));
}

static void put_part(struct str *s, struct draws *d, enum needle_part part) {
    (part == PART_WORD ? put_word : part == PART_NUMBER ? put_number : put_uuid)(s, d);
}

static bool is_key(const struct needles *n, size_t n_keys, const struct str *text) {
    for (size_t k = 0; k < n_keys; k++)
        if (strcmp(str_text(&n->key[k]), str_text(text)) == 0)
            return true;
    return false;
}

/* A key that none of the first n_keys is. */
static void put_new_key(const struct needles *n, size_t n_keys, struct draws *d, enum needle_part part, struct str *out) {
    do {
        str_clear(out);
        put_part(out, d, part);
    } while (!out->failed && is_key(n, n_keys, out));
}

static void draw_needles(const struct needle_shape *shape, struct draws *d, struct needles *out) {
    for (int k = 0; k < shape->n_keys; k++) {
        put_new_key(out, (size_t)k, d, shape->key, &out->key[k]);
        for (int v = 0; v < shape->n_values; v++)
            put_part(&out->value[k * shape->n_values + v], d, shape->value);
    }
    out->n = (size_t)(shape->n_keys * shape->n_values);
    ASSERT(out->n <= NEEDLES_MAX);
    for (size_t i = 0; i < out->n; i++)
        out->order[i] = i;
    ruler_shuffle(d, out->order, out->n);
}

static void needles_free(struct needles *n) {
    for (size_t i = 0; i < NEEDLES_MAX; i++) {
        str_free(&n->key[i]);
        str_free(&n->value[i]);
    }
}

static void put_needle(struct str *s, const struct needle_shape *shape, const struct str *key, const struct str *value) {
    str_printf(s, "One of the special magic %s for %s is: ", KINDS[shape->value], str_text(key));
    str_printf(s, "%s.", str_text(value));
}

/* Where the needles stand, in rising order: in front of unit out[i] of n_units. In text at some of 40 evenly spaced depths,
 * elsewhere anywhere. */
static void draw_places(const struct needle_shape *shape, struct draws *d, size_t n_needles, size_t n_units, size_t *out) {
    bool depths = shape->hay == HAY_TEXT;
    ruler_draw_rising(d, depths ? NEEDLE_DEPTHS : n_units, n_needles, out);
    for (size_t i = 0; depths && i < n_needles; i++) {
        size_t percent = (200 * out[i] / (NEEDLE_DEPTHS - 1) + 1) / 2; /* rounded, 0 to 100 */
        out[i] = n_units * percent / 100;
    }
}

/* One unit of the haystack. */
struct hay {
    const struct needle_shape *shape;
    const struct needles *needles;
    struct haystack_reader text;
    struct draws draws;
    struct str key, value;
};

static void put_hay(struct hay *h, struct str *out) {
    if (h->shape->hay == HAY_NOISE) {
        str_puts(out, ruler_noise);
    } else if (h->shape->hay == HAY_TEXT) {
        haystack_put_next(&h->text, out);
    } else {
        put_new_key(h->needles, (size_t)h->shape->n_keys, &h->draws, h->shape->key, &h->key);
        str_clear(&h->value);
        put_part(&h->value, &h->draws, h->shape->value);
        put_needle(out, h->shape, &h->key, &h->value);
    }
}

static void put_context(const struct ruler_plan *plan, const struct needles *needles, struct draws *d, size_t n_units,
                        struct str *out) {
    enum { HAY = 0x68617973 };
    const struct needle_shape *shape = &plan->task->needles;
    const char *between = shape->hay == HAY_TEXT ? " " : "\n";
    struct draws hay_draws = plan->draws;
    size_t place[NEEDLES_MAX], next = 0;
    hay_draws.task ^= HAY; /* numbers of its own: a longer haystack begins like a shorter one */
    struct hay hay = {.shape = shape, .needles = needles, .draws = hay_draws};
    if (shape->hay == HAY_TEXT)
        hay.text = haystack_begin(plan->options->haystack, hay_draws);
    draw_places(shape, d, needles->n, n_units, place);
    for (size_t unit = 0; unit <= n_units; unit++) {
        for (; next < needles->n && place[next] == unit; next++) {
            size_t i = needles->order[next];
            str_puts(out, unit || next ? between : "");
            put_needle(out, shape, &needles->key[i / (size_t)shape->n_values], &needles->value[i]);
        }
        if (unit < n_units) {
            str_puts(out, unit || next ? between : "");
            put_hay(&hay, out);
        }
    }
    str_free(&hay.key);
    str_free(&hay.value);
}

/* The keys asked for, as "a", or "a, b, c, and d", and their values as references. */
static void ask(const struct needle_shape *shape, const struct needles *needles, struct draws *d, struct str *query,
                struct ruler_sample *out) {
    size_t asked[NEEDLES_MAX] = {0}, n = (size_t)shape->n_queries;
    for (size_t i = 0; i < (size_t)shape->n_keys; i++)
        asked[i] = i;
    ruler_shuffle(d, asked, (size_t)shape->n_keys);
    for (size_t i = 0; i < n; i++) {
        str_puts(query, i == 0 ? "" : i + 1 == n ? ", and " : ", ");
        str_puts(query, str_text(&needles->key[asked[i]]));
        for (size_t v = 0; v < (size_t)shape->n_values; v++)
            ruler_put_output(out, str_text(&needles->value[asked[i] * (size_t)shape->n_values + v]));
    }
}

void ruler_build_needles(const struct ruler_plan *plan, size_t n_units, struct ruler_sample *out) {
    const struct needle_shape *shape = &plan->task->needles;
    struct needles needles = {0};
    struct str query = {0}, *in = &out->input;
    struct draws d = plan->draws;
    const char *kind = KINDS[shape->value];
    bool one = shape->n_queries * shape->n_values == 1;
    int n_kind = (int)strlen(kind) - one; /* "number" where one is asked for */
    draw_needles(shape, &d, &needles);
    ask(shape, &needles, &d, &query, out);
    str_printf(in, "%s special magic %.*s %s hidden within the following text. Make sure to memorize it. ",
               one ? "A" : "Some", n_kind, kind, one ? "is" : "are");
    str_printf(in, "I will quiz you about the %.*s afterwards.\n", n_kind, kind);
    put_context(plan, &needles, &d, n_units, in);
    str_printf(in, "\nWhat %s the special magic %.*s for %s mentioned in the provided text?", one ? "is" : "are all", n_kind,
               kind, str_text(&query));
    str_printf(&out->prefix, " The special magic %.*s for %s mentioned in the provided text %s", n_kind, kind,
               str_text(&query), one ? "is" : "are");
    for (size_t i = 0; i < NEEDLES_MAX; i++)
        in->failed |= needles.key[i].failed || needles.value[i].failed;
    in->failed |= query.failed;
    str_free(&query);
    needles_free(&needles);
}

size_t ruler_least_needles(const struct ruler_plan *plan) {
    const struct needle_shape *shape = &plan->task->needles;
    return (size_t)(shape->n_keys * shape->n_values);
}
