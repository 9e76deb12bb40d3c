/* Next tokens. A row is drawn by inverse CDF over its ids in descending order of probability, ties to the lower id:
 * temperature, then the top_k likeliest, then the shortest head of those whose share reaches top_p, then the first id at
 * which the running sum passes rng_uniform(seed, sequence_id, 0, 0, position) times the sum of what is left. NaN is never
 * drawn; a row of nothing but NaN gives id 0. */
#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "kernels/ref/ref.h"

struct candidate {
    double logit;
    int32_t id;
};

static int candidate_order(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static int32_t row_greedy(const struct device *dev, const struct sample_args *a, size_t row) {
    int32_t best = -1;
    double best_logit = 0;
    for (size_t i = 0; i < a->n_vocab; i++) {
        double logit = real_load(dev, a->logits, row * a->n_vocab + i);
        if (logit == logit && (best < 0 || logit > best_logit)) {
            best = (int32_t)i;
            best_logit = logit;
        }
    }
    return best < 0 ? 0 : best;
}

/* Relative probability of a candidate; an infinite best logit takes everything. */
static double candidate_weight(const struct candidate *c, double best, double temperature) {
    return c->logit == best ? 1 : exp((c->logit - best) / temperature);
}

static int32_t row_draw(const struct device *dev, const struct sample_args *a, size_t row, struct candidate *list) {
    size_t n = 0, n_top;
    double total = 0, kept = 0, running = 0;
    for (size_t i = 0; i < a->n_vocab; i++) {
        double logit = real_load(dev, a->logits, row * a->n_vocab + i);
        if (logit == logit)
            list[n++] = (struct candidate){logit, (int32_t)i};
    }
    if (n == 0)
        return 0;
    qsort(list, n, sizeof *list, candidate_order);
    if (a->top_k > 0 && (size_t)a->top_k < n)
        n = (size_t)a->top_k;
    for (size_t i = 0; i < n; i++)
        total += candidate_weight(&list[i], list[0].logit, a->temperature);
    for (n_top = 0; n_top < n && (n_top == 0 || a->top_p >= 1 || kept < (double)a->top_p * total); n_top++)
        kept += candidate_weight(&list[n_top], list[0].logit, a->temperature);
    double draw = kept * (double)rng_uniform(a->seed, a->sequence_id[row], 0, 0, (uint32_t)a->position[row]);
    for (size_t i = 0; i + 1 < n_top; i++) {
        running += candidate_weight(&list[i], list[0].logit, a->temperature);
        if (running > draw)
            return list[i].id;
    }
    return list[n_top - 1].id;
}

void ref_sample(struct device *dev, const struct sample_args *a) {
    struct candidate *list = NULL;
    if (ref_failed(dev) || (a->temperature > 0 && !(list = ref_scratch(dev, a->n_vocab * sizeof *list))))
        return;
    for (size_t r = 0; r < a->n_rows; r++)
        a->id[r] = a->temperature > 0 ? row_draw(dev, a, r, list) : row_greedy(dev, a, r);
}
