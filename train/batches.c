#include "train/batches.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"
#include "base/rng.h"
#include "train/pieces.h"

enum { PERIOD = 1024 }; /* sequences after which the pattern of corpora repeats: shares are exact to 1/PERIOD */

/* A corpus cut into sequences. */
struct pool {
    struct pieces *pieces;
    size_t *first;      /* (n + 1) the first piece of each sequence */
    size_t n;
    double weight;
};

struct batches {
    struct batches_options options;
    struct pool *pools;
    size_t n_pools, pools_cap;
    uint32_t corpus_of[PERIOD];  /* of the i-th sequence of a period */
    uint32_t rank_of[PERIOD];    /* sequences of that corpus before it in the period */
    uint32_t *per_period;        /* (n_pools) sequences of each corpus in a period */
    size_t per_period_cap;
    int *row_splits;             /* of the micro-batch handed out */
    int32_t *ids, *target;
    uint64_t *sequence_id;
};

/* --- life ----------------------------------------------------------------------------------------------------------- */

int batches_create(const struct batches_options *o, struct batches **out, struct err *err) {
    struct batches *b = mem_alloc(1, sizeof *b, "training data", err);
    size_t rows = (size_t)o->max_sequences * (size_t)o->context_len, n_seq = rows / 2; /* a piece has two tokens at least */
    *out = NULL;
    if (!b)
        return ERR_MEMORY;
    b->options = *o;
    if (!(b->row_splits = mem_alloc(n_seq + 1, sizeof *b->row_splits, "a micro-batch", err)) ||
        !(b->ids = mem_alloc(rows, sizeof *b->ids, "a micro-batch", err)) ||
        !(b->target = mem_alloc(rows, sizeof *b->target, "a micro-batch", err)) ||
        !(b->sequence_id = mem_alloc(n_seq, sizeof *b->sequence_id, "a micro-batch", err))) {
        batches_free(b);
        return ERR_MEMORY;
    }
    *out = b;
    return OK;
}

static void pool_free(struct pool *pool) {
    pieces_free(pool->pieces);
    free(pool->first);
}

void batches_free(struct batches *b) {
    if (!b)
        return;
    for (size_t i = 0; i < b->n_pools; i++)
        pool_free(&b->pools[i]);
    free(b->pools);
    free(b->per_period);
    free(b->row_splits);
    free(b->ids);
    free(b->target);
    free(b->sequence_id);
    free(b);
}

/* --- corpora -------------------------------------------------------------------------------------------------------- */

/* Joins consecutive pieces as long as they fit. */
static int join_pieces(struct pool *pool, int context_len, struct err *err) {
    size_t n_pieces = pieces_count(pool->pieces), n_tok = 0;
    if (!(pool->first = mem_alloc(n_pieces + 1, sizeof *pool->first, "training data", err)))
        return ERR_MEMORY;
    for (size_t i = 0; i < n_pieces; i++) {
        size_t len = pieces_len(pool->pieces, i);
        ASSERT(len >= 2 && len <= (size_t)context_len);
        if (i == 0 || n_tok + len > (size_t)context_len) {
            pool->first[pool->n++] = i;
            n_tok = 0;
        }
        n_tok += len;
    }
    pool->first[pool->n] = n_pieces;
    return OK;
}

static double mean_len(const struct pool *pool) {
    return (double)pieces_n_tok(pool->pieces) / (double)pool->n;
}

/* Spreads the corpora over a period: each place goes to the corpus that is furthest behind its share of tokens. */
static void mix(struct batches *b) {
    double total = 0;
    for (size_t c = 0; c < b->n_pools; c++)
        total += b->pools[c].weight / mean_len(&b->pools[c]);
    memset(b->per_period, 0, b->n_pools * sizeof *b->per_period);
    for (size_t i = 0; i < PERIOD; i++) {
        size_t best = 0;
        double most = -INFINITY;
        for (size_t c = 0; c < b->n_pools; c++) {
            double share = b->pools[c].weight / mean_len(&b->pools[c]) / total;
            double behind = share * (double)(i + 1) - b->per_period[c];
            if (behind > most) {
                most = behind;
                best = c;
            }
        }
        b->corpus_of[i] = (uint32_t)best;
        b->rank_of[i] = b->per_period[best]++;
    }
}

int batches_add(struct batches *b, const char *name, double weight, const struct source *source, struct err *err) {
    struct pool pool = {.weight = weight};
    ASSERT(weight > 0);
    int rc = pieces_read(source, name, b->options.vocab_size, 0, &pool.pieces, err);
    if (rc == OK && pieces_n_tok(pool.pieces) < (size_t)b->options.context_len)
        rc = err_set(err, ERR_INPUT, name, "the corpus has %zu tokens, less than one sequence of %d (give more text, or a "
                     "shorter context)", pieces_n_tok(pool.pieces), b->options.context_len);
    if (rc == OK)
        rc = join_pieces(&pool, b->options.context_len, err);
    if (rc == OK)
        rc = mem_grow(&b->pools, &b->pools_cap, b->n_pools + 1, sizeof *b->pools, "training data", err);
    if (rc == OK)
        rc = mem_grow(&b->per_period, &b->per_period_cap, b->n_pools + 1, sizeof *b->per_period, "training data", err);
    if (rc != OK) {
        pool_free(&pool);
        return rc;
    }
    b->pools[b->n_pools++] = pool;
    mix(b);
    return OK;
}

/* --- order ---------------------------------------------------------------------------------------------------------- */

struct batches_place batches_place(const struct batches *b, uint64_t i) {
    size_t slot = i % PERIOD, corpus = b->corpus_of[slot];
    uint64_t n = b->pools[corpus].n;
    uint64_t nth = i / PERIOD * b->per_period[corpus] + b->rank_of[slot], epoch = nth / n;
    return (struct batches_place){corpus, epoch, rng_permute(b->options.seed, (uint64_t)corpus << 40 | epoch, n, nth % n)};
}

void batches_get(struct batches *b, uint64_t first, int n, struct micro_batch *out) {
    int n_rows = 0, n_seq = 0;
    ASSERT(n >= 1 && n <= b->options.max_sequences && b->n_pools > 0);
    for (uint64_t i = first; i < first + (uint64_t)n; i++) {
        struct batches_place at = batches_place(b, i);
        const struct pool *pool = &b->pools[at.corpus];
        for (size_t p = pool->first[at.sequence]; p < pool->first[at.sequence + 1]; p++) {
            b->row_splits[n_seq] = n_rows;
            b->sequence_id[n_seq++] = i << 24 | (p - pool->first[at.sequence]);
            n_rows += (int)pieces_get(pool->pieces, p, b->options.answer_only, b->ids + n_rows, b->target + n_rows);
        }
    }
    b->row_splits[n_seq] = n_rows;
    *out = (struct micro_batch){.n_seq = n_seq, .row_splits = b->row_splits, .ids = b->ids, .target = b->target,
                                .sequence_id = b->sequence_id};
}

struct batches_size batches_measure(struct batches *b, uint64_t first, int n) {
    struct batches_size size = {0};
    for (uint64_t i = first; i < first + (uint64_t)n; i++) {
        struct micro_batch batch;
        batches_get(b, i, 1, &batch);
        int n_rows = batch.row_splits[batch.n_seq];
        size.n_rows += (uint64_t)n_rows;
        for (int r = 0; r < n_rows; r++)
            size.n_predicted += batch.target[r] >= 0;
    }
    return size;
}

bool batches_have_answers(const struct batches *b) {
    for (size_t c = 0; c < b->n_pools; c++)
        if (pieces_scored_apart(b->pools[c].pieces))
            return true;
    return false;
}

uint64_t batches_n_tok(const struct batches *b) {
    uint64_t n = 0;
    for (size_t i = 0; i < b->n_pools; i++)
        n += pieces_n_tok(b->pools[i].pieces);
    return n;
}

size_t batches_n_sequences(const struct batches *b, size_t corpus) {
    return b->pools[corpus].n;
}

void batches_hash(const struct batches *b, char hex[33]) {
    XXH128_hash_t sum = {b->options.seed, (uint64_t)b->options.answer_only};
    for (size_t i = 0; i < b->n_pools; i++) {
        uint64_t link[] = {sum.low64, sum.high64, pieces_hash(b->pools[i].pieces), 0};
        memcpy(&link[3], &b->pools[i].weight, sizeof link[3]);
        sum = XXH3_128bits(link, sizeof link);
    }
    snprintf(hex, 33, "%016" PRIx64 "%016" PRIx64, (uint64_t)sum.high64, (uint64_t)sum.low64);
}
