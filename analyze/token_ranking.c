#include "analyze/token_ranking.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { MAX_VOCAB = 1 << 24 };

/* A place and the share there. */
struct place {
    double share;
    size_t row, position;
};

struct entry {
    int32_t id;
    uint64_t n, n_pairs;
    double sum;
    struct place high, low;
};

static double share_of(const struct entry *e) {
    return e->sum / (double)e->n_pairs;
}

static void count(struct entry *e, double sum, size_t n_known, size_t row, size_t position) {
    struct place here = {sum / (double)n_known, row, position};
    if (e->n == 0 || here.share > e->high.share)
        e->high = here;
    if (e->n == 0 || here.share < e->low.share)
        e->low = here;
    e->n++;
    e->n_pairs += n_known;
    e->sum += sum;
}

/* All tokens of one sequence; entries (n_vocab) by id. */
static int count_sequence(struct token_values *v, size_t row, struct entry *entries, size_t n_vocab, struct err *err) {
    uint64_t first;
    size_t n, n_known;
    int rc = profile_token_range(v->profile, row, &first, &n, err);
    for (size_t at = 0; rc == OK && at < n; at += v->n) {
        if ((rc = token_values_read(v, first + at, n - at < v->cap ? n - at : v->cap, err)) != OK)
            break;
        for (size_t i = 0; i < v->n; i++) {
            double sum = token_values_sum(v, i, &n_known);
            if (v->id[i] < 0 || (size_t)v->id[i] >= n_vocab)
                return err_set(err, ERR_INPUT, profile_path(v->profile),
                               "tokens/id: token %llu is %d, the vocabulary has %zu entries",
                               (unsigned long long)(first + at + i), v->id[i], n_vocab);
            if (n_known)
                count(&entries[v->id[i]], sum, n_known, row, at + i);
        }
    }
    return rc;
}

/* Most kept first. */
static int by_share(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    double s = share_of(x), t = share_of(y);
    return s != t ? (s > t ? -1 : 1) : x->n != y->n ? (x->n > y->n ? -1 : 1) : x->id < y->id ? -1 : 1;
}

/* Least kept first, among equals in the same order as above. */
static int by_share_upward(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    double s = share_of(x), t = share_of(y);
    return s != t ? (s < t ? -1 : 1) : by_share(a, b);
}

/* Moves the entries that occur often enough to the front; returns how many. */
static size_t select_entries(struct entry *entries, size_t n_vocab, uint64_t least) {
    size_t n = 0;
    for (size_t id = 0; id < n_vocab; id++)
        if (entries[id].n >= least) {
            entries[n] = entries[id];
            entries[n++].id = (int32_t)id;
        }
    return n;
}

static bool occurs(const struct entry *entries, size_t n_vocab, uint64_t least) {
    for (size_t id = 0; id < n_vocab; id++)
        if (entries[id].n >= least)
            return true;
    return false;
}

static int take(struct profile *p, const struct entry *e, const struct place *place, struct ranked_token *out,
                struct err *err) {
    uint64_t first;
    size_t n, from, to;
    int rc = profile_token_range(p, place->row, &first, &n, err);
    if (rc != OK)
        return rc;
    from = place->position > TOKEN_RANKING_CONTEXT ? place->position - TOKEN_RANKING_CONTEXT : 0;
    to = n - place->position > TOKEN_RANKING_CONTEXT ? place->position + TOKEN_RANKING_CONTEXT + 1 : n;
    *out = (struct ranked_token){.id = e->id, .n = e->n, .n_pairs = e->n_pairs, .share = share_of(e),
                                 .example_share = place->share, .row = place->row, .position = place->position,
                                 .n_before = place->position - from, .n_context = to - from};
    return profile_read_rows(p, PROFILE_TOKEN_ID, first + from, to - from, out->context, err);
}

static int rank(struct profile *p, struct entry *entries, struct token_ranking *out, struct err *err) {
    int rc = OK;
    qsort(entries, out->n_ids, sizeof *entries, by_share);
    for (size_t i = 0; rc == OK && i < out->n; i++)
        rc = take(p, &entries[i], &entries[i].high, &out->most[i], err);
    qsort(entries, out->n_ids, sizeof *entries, by_share_upward);
    for (size_t i = 0; rc == OK && i < out->n; i++)
        rc = take(p, &entries[i], &entries[i].low, &out->least[i], err);
    return rc;
}

int token_ranking_compute(struct profile *p, size_t n_top, struct token_ranking *out, struct err *err) {
    size_t n_vocab = profile_meta(p)->vocab_size;
    struct token_values v = {0};
    struct entry *entries = NULL;
    *out = (struct token_ranking){.quantity = token_quantity_of(p), .min_occurrences = TOKEN_RANKING_OCCURRENCES};
    if (n_vocab > MAX_VOCAB)
        return err_set(err, ERR_INPUT, profile_path(p), "a vocabulary of %zu entries", n_vocab);
    int rc = token_values_open(p, &v, err);
    if (rc == OK && !(entries = mem_alloc(n_vocab, sizeof *entries, "counts of tokens", err)))
        rc = ERR_MEMORY;
    for (size_t row = 0; rc == OK && row < profile_n_sequences(p); row++)
        rc = count_sequence(&v, row, entries, n_vocab, err);
    if (rc == OK) {
        if (!occurs(entries, n_vocab, out->min_occurrences))
            out->min_occurrences = 1;
        out->n_ids = select_entries(entries, n_vocab, out->min_occurrences);
        out->n = out->n_ids < n_top ? out->n_ids : n_top;
        out->most = mem_alloc(out->n, sizeof *out->most, "a ranking of tokens", err);
        out->least = mem_alloc(out->n, sizeof *out->least, "a ranking of tokens", err);
        rc = out->most && out->least ? rank(p, entries, out, err) : ERR_MEMORY;
    }
    token_values_close(&v);
    free(entries);
    if (rc != OK)
        token_ranking_free(out);
    return rc;
}

void token_ranking_free(struct token_ranking *ranking) {
    free(ranking->most);
    free(ranking->least);
    *ranking = (struct token_ranking){0};
}
