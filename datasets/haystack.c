#include "datasets/haystack.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "datasets/corpus.h"
#include "datasets/word_list.h"

struct haystack {
    struct str text; /* one space between sentences */
    size_t *end;     /* (n) byte behind each sentence */
    size_t n, cap;
};

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Length of a closing quote or bracket at text[0..n), or 0. */
static size_t closing(const char *text, size_t n) {
    if (n >= 1 && strchr("\"')]", text[0]))
        return 1;
    return n >= 3 && (memcmp(text, "\xE2\x80\x9D", 3) == 0 || memcmp(text, "\xE2\x80\x99", 3) == 0) ? 3 : 0;
}

/* Bytes up to the end of the sentence that text begins with. */
static size_t sentence_length(const char *text, size_t n) {
    for (size_t i = 0; i < n;) {
        if (!strchr(".!?", text[i++]))
            continue;
        for (size_t more; (more = closing(text + i, n - i)) > 0;)
            i += more;
        size_t next = i;
        while (next < n && is_space(text[next]))
            next++;
        if (next == n || (next > i && !(text[next] >= 'a' && text[next] <= 'z')))
            return i;
    }
    return n;
}

static int add_sentence(struct haystack *h, const char *text, size_t n, struct err *err) {
    bool spaced = h->text.len > 0; /* a space is due before the next letter */
    while (n > 0 && is_space(text[0]))
        text++, n--;
    if (n == 0)
        return OK;
    for (size_t i = 0; i < n; i++) {
        if (!is_space(text[i])) {
            if (spaced)
                str_putc(&h->text, ' ');
            str_putc(&h->text, text[i]);
        }
        spaced = is_space(text[i]);
    }
    if (h->text.failed)
        return err_memory(err, "a haystack", n);
    int rc = mem_grow(&h->end, &h->cap, h->n + 1, sizeof *h->end, "sentences", err);
    if (rc == OK)
        h->end[h->n++] = h->text.len;
    return rc;
}

static int read_documents(struct haystack *h, struct corpus *corpus, struct err *err) {
    struct document document;
    bool end = false;
    int rc;
    while ((rc = corpus_next(corpus, &document, &end, err)) == OK && !end) {
        size_t room = HAYSTACK_MAX_BYTES - h->text.len, n = document.n < room ? document.n : room;
        for (size_t at = 0, length; rc == OK && at < n; at += length) {
            length = sentence_length(document.text + at, document.n - at);
            rc = add_sentence(h, document.text + at, length, err);
        }
        if (rc != OK || h->text.len >= HAYSTACK_MAX_BYTES)
            break;
    }
    return rc;
}

int haystack_open(char *const *corpora, size_t n, struct haystack **out, struct err *err) {
    struct corpus *corpus = NULL;
    struct haystack *h = mem_alloc(1, sizeof *h, "a haystack", err);
    *out = NULL;
    int rc = h ? corpus_open(corpora, n, &(struct corpus_options){0}, &corpus, err) : ERR_MEMORY;
    if (rc == OK)
        rc = read_documents(h, corpus, err);
    if (rc == OK && h->n == 0)
        rc = err_set(err, ERR_INPUT, corpora[0], "no sentence to hide anything behind");
    corpus_close(corpus);
    if (rc == OK)
        *out = h;
    else
        haystack_free(h);
    return rc;
}

void haystack_free(struct haystack *h) {
    if (!h)
        return;
    str_free(&h->text);
    free(h->end);
    free(h);
}

size_t haystack_n_sentences(const struct haystack *h) {
    return h->n;
}

/* --- generated prose --- */

static const char *const DID[] = {
    "admired", "carried", "chased", "covered", "drew", "followed", "found", "guarded", "heard", "kept", "left", "liked",
    "lost", "moved", "noticed", "painted", "passed", "remembered", "repaired", "saw", "shook", "stopped", "took", "wanted",
    "washed", "watched",
};
static const char *const WHEN[] = {
    "in the morning", "before noon", "after dinner", "late at night", "for a while", "all day long", "once again",
    "last year", "in the rain", "without a word", "with great care", "as usual", "from time to time", "at the last moment",
};
static const char *const WHERE[] = {
    "near", "behind", "beside", "above", "below", "in front of", "far from", "next to", "across from", "around",
};
static const char *const BECAUSE[] = {
    "because", "while", "although", "until", "so", "and", "but", "after", "before",
};

#define PICK(draws, list) ((list)[draw(draws, sizeof(list) / sizeof *(list))])

static void put_thing(struct str *s, struct draws *d) {
    if (draw(d, 2))
        str_printf(s, "the %s ", word_adjective(d));
    else
        str_puts(s, "the ");
    str_puts(s, word_noun(d));
}

static void put_clause(struct str *s, struct draws *d) {
    put_thing(s, d);
    if (draw(d, 3) == 0) {
        str_printf(s, " %s ", PICK(d, WHERE));
        put_thing(s, d);
    }
    str_printf(s, " %s ", PICK(d, DID));
    put_thing(s, d);
    if (draw(d, 2))
        str_printf(s, " %s", PICK(d, WHEN));
}

static void put_prose(struct str *s, struct draws *d) {
    size_t begin = s->len;
    put_clause(s, d);
    if (draw(d, 2)) {
        str_puts(s, draw(d, 2) ? ", " : " ");
        str_printf(s, "%s ", PICK(d, BECAUSE));
        put_clause(s, d);
    }
    str_putc(s, '.');
    if (!s->failed)
        s->data[begin] = 'T'; /* every clause begins with "the" */
}

struct haystack_reader haystack_begin(const struct haystack *haystack, struct draws draws) {
    struct haystack_reader reader = {.from = haystack, .draws = draws};
    if (haystack)
        reader.next = draw(&reader.draws, haystack->n);
    return reader;
}

void haystack_put_next(struct haystack_reader *r, struct str *out) {
    const struct haystack *h = r->from;
    if (!h) {
        put_prose(out, &r->draws);
        return;
    }
    size_t begin = r->next ? h->end[r->next - 1] + 1 : 0;
    str_append(out, h->text.data + begin, h->end[r->next] - begin);
    r->next = (r->next + 1) % h->n;
}
