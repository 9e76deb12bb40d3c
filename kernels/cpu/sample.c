/* Next tokens, drawn as the reference defines it (kernels/ref/sample.c): inverse CDF over the ids in descending order of
 * probability, ties to the lower id; NaN is never drawn. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/cpu/device.h"
#include "kernels/cpu/vmath.h"

enum { RADIX_BITS = 11, RADIX = 1 << RADIX_BITS, RADIX_PASSES = 3 };

struct candidate {
    uint32_t key; /* ascending keys are descending logits */
    int32_t id;
};

/* What one thread needs: two lists to sort between, and a weight per candidate. */
struct sampler {
    struct candidate *list, *other; /* (n_vocab) */
    double *weight;                 /* (n_vocab) */
};

static uint32_t descending_key(float x) {
    uint32_t bits = f32_bits(x == 0 ? 0.0f : x); /* -0 equals 0 */
    return bits & 0x80000000u ? bits : ~bits & 0x7FFFFFFFu;
}

static float key_logit(uint32_t key) {
    return f32_from_bits(key & 0x80000000u ? key : ~key & 0x7FFFFFFFu);
}

/* Stable, so that equal keys keep ascending ids. */
static void candidates_sort(struct sampler *s, size_t n) {
    for (int pass = 0; pass < RADIX_PASSES; pass++) {
        size_t start[RADIX] = {0}, sum = 0;
        int shift = pass * RADIX_BITS;
        for (size_t i = 0; i < n; i++)
            start[s->list[i].key >> shift & (RADIX - 1)]++;
        for (size_t b = 0; b < RADIX; b++) {
            size_t count = start[b];
            start[b] = sum;
            sum += count;
        }
        for (size_t i = 0; i < n; i++)
            s->other[start[s->list[i].key >> shift & (RADIX - 1)]++] = s->list[i];
        struct candidate *sorted = s->other;
        s->other = s->list;
        s->list = sorted;
    }
}

static int32_t row_draw(const struct sample_args *a, size_t row, struct sampler s) {
    const float *logits = a->logits + row * a->n_vocab;
    size_t n = 0, n_top;
    double total = 0, kept = 0, running = 0;
    for (size_t i = 0; i < a->n_vocab; i++)
        if (logits[i] == logits[i])
            s.list[n++] = (struct candidate){descending_key(logits[i]), (int32_t)i};
    if (n == 0)
        return 0;
    candidates_sort(&s, n);
    if (a->top_k > 0 && (size_t)a->top_k < n)
        n = (size_t)a->top_k;
    double best = (double)key_logit(s.list[0].key), temperature = (double)a->temperature;
    for (size_t i = 0; i < n; i++) {
        s.weight[i] = s.list[i].key == s.list[0].key ? 1 : exp(((double)key_logit(s.list[i].key) - best) / temperature);
        total += s.weight[i];
    }
    for (n_top = 0; n_top < n && (n_top == 0 || a->top_p >= 1 || kept < (double)a->top_p * total); n_top++)
        kept += s.weight[n_top];
    double draw = kept * (double)rng_uniform(a->seed, a->sequence_id[row], 0, 0, (uint32_t)a->position[row]);
    for (size_t i = 0; i + 1 < n_top; i++) {
        running += s.weight[i];
        if (running > draw)
            return s.list[i].id;
    }
    return s.list[n_top - 1].id;
}

static int32_t row_greedy(const float *logits, size_t n_vocab) {
    float best = -INFINITY;
    for (size_t i = 0; i < n_vocab; i++)
        best = logits[i] > best ? logits[i] : best;
    for (size_t i = 0; i < n_vocab; i++)
        if (logits[i] == best)
            return (int32_t)i;
    return 0; /* nothing but NaN */
}

static struct sampler sampler_of(char *memory, size_t n_vocab) {
    struct sampler s = {.weight = (double *)(void *)memory};
    s.list = (struct candidate *)(void *)(s.weight + n_vocab);
    s.other = s.list + n_vocab;
    return s;
}

void cpu_sample(struct device *dev, const struct sample_args *a) {
    size_t part_bytes = a->temperature > 0 ? a->n_vocab * (sizeof(double) + 2 * sizeof(struct candidate)) : 0;
    char *memory;
    if (device_failed(dev) || !(memory = device_scratch(dev, SCRATCH_THREAD, (size_t)dev->n_threads * part_bytes)))
        return;
#pragma omp parallel num_threads(threads_for_bytes(dev, a->n_rows * a->n_vocab * 4))
    {
        struct range rows = thread_range(a->n_rows);
        struct sampler s = sampler_of(memory + (size_t)thread_number() * part_bytes, a->n_vocab);
        for (size_t r = rows.begin; r < rows.end; r++)
            a->id[r] = a->temperature > 0 ? row_draw(a, r, s) : row_greedy(a->logits + r * a->n_vocab, a->n_vocab);
    }
}
