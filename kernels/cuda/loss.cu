/* Losses through the output matrix, tile by tile: logits of some rows and some ids lie in scratch, never all of them. */
#include "kernels/cuda/device.cuh"

enum { TILE_IDS = 8192, TILE_ROWS = 1024, THREADS = 256 };

/* What a row has met so far: the sum of exponentials relative to its largest logit. */
struct row_sum {
    float max, sum;
    float target; /* logit of the target */
    float other;  /* the largest logit of an id that greedy sampling would prefer at equal logits: below the target */
};

struct loss_params {
    const float *logits; /* (n_rows, n_ids) before the soft-cap */
    const int32_t *target;
    struct row_sum *rows;
    size_t n_ids, first_id;
    float softcap;
    float *nll;
    uint8_t *is_argmax;
    size_t n_rows;
};

/* Largest float that is a number; NaN where all are none. */
static __device__ float larger(float a, float b) {
    return fmaxf(a, b);
}

/* Joins what two threads have met; the largest logits are numbers or -INFINITY, NaN sits in the sums. */
static __device__ void sums_join(float *max, float *sum, float other_max, float other_sum) {
    float largest = larger(*max, other_max), base = largest == -INFINITY ? 0 : largest;
    *sum = *sum * expf(*max - base) + other_sum * expf(other_max - base);
    *max = largest;
}

/* One warp a row and tile. */
static __global__ void k_loss_tile(struct loss_params p) {
    size_t row = thread_in_grid() / 32;
    int lane = (int)threadIdx.x % 32;
    if (row >= p.n_rows || p.target[row] < 0)
        return;
    const float *logits = p.logits + row * p.n_ids;
    long long target = (long long)p.target[row] - (long long)p.first_id;
    float max = -INFINITY, sum = 0, below = -INFINITY;
    for (size_t i = (size_t)lane; i < p.n_ids; i += 32) {
        float logit = softcapped(logits[i], p.softcap);
        sums_join(&max, &sum, logit == logit ? logit : -INFINITY, logit == logit ? 1 : logit);
        below = (long long)i < target ? larger(below, logit) : below;
    }
    for (int lanes = 16; lanes; lanes /= 2) {
        float other_max = __shfl_xor_sync(0xFFFFFFFFu, max, lanes), other_sum = __shfl_xor_sync(0xFFFFFFFFu, sum, lanes);
        sums_join(&max, &sum, other_max, other_sum);
        below = larger(below, __shfl_xor_sync(0xFFFFFFFFu, below, lanes));
    }
    if (lane != 0)
        return;
    struct row_sum s = {-INFINITY, 0, NAN, -INFINITY};
    if (p.first_id > 0)
        s = p.rows[row];
    sums_join(&s.max, &s.sum, max, sum);
    s.other = larger(s.other, below);
    if (target >= 0 && target < (long long)p.n_ids)
        s.target = softcapped(logits[target], p.softcap);
    p.rows[row] = s;
}

static __global__ void k_loss_out(struct loss_params p) {
    size_t row = thread_in_grid();
    if (row >= p.n_rows)
        return;
    struct row_sum s = {NAN, NAN, NAN, NAN};
    if (p.target[row] >= 0)
        s = p.rows[row];
    p.nll[row] = s.max + logf(s.sum) - s.target;
    if (p.is_argmax)
        p.is_argmax[row] = s.target == s.max && s.target > s.other && s.sum == s.sum;
}

/* Losses of rows first .. first + n_rows - 1. */
static void rows_run(struct device *dev, const struct nll_args *a, size_t first, size_t n_rows, float *logits,
                     struct row_sum *rows) {
    size_t act = dtype_size(dev->dtype), d_model = a->w->n_cols;
    struct loss_params p = {};
    p.logits = logits;
    p.rows = rows;
    p.target = a->target + first;
    p.softcap = a->softcap;
    p.n_rows = n_rows;
    p.nll = a->nll + first;
    p.is_argmax = a->is_argmax ? a->is_argmax + first : NULL;
    for (p.first_id = 0; p.first_id < a->w->n_rows; p.first_id += TILE_IDS) {
        size_t left = a->w->n_rows - p.first_id;
        p.n_ids = left < TILE_IDS ? left : TILE_IDS;
        const struct product_args product = {(const char *)a->w->data + p.first_id * d_model * act,
                                             (const char *)a->x + first * d_model * act, dev->dtype, NULL, logits, n_rows,
                                             d_model, p.n_ids, p.n_ids};
        cuda_product(dev, &product);
        cuda_launch(dev, k_loss_tile, blocks_for(n_rows * 32, THREADS), THREADS, 0, p);
    }
    cuda_launch(dev, k_loss_out, blocks_for(n_rows, THREADS), THREADS, 0, p);
}

void cuda_nll(struct device *dev, const struct nll_args *a) {
    size_t rows = a->n_rows < TILE_ROWS ? a->n_rows : TILE_ROWS, ids = a->w->n_rows < TILE_IDS ? a->w->n_rows : TILE_IDS;
    float *logits = (float *)cuda_scratch(dev, SCRATCH_LOGITS, rows * ids * sizeof *logits);
    struct row_sum *sums = (struct row_sum *)cuda_scratch(dev, SCRATCH_ROWS, rows * sizeof *sums);
    ASSERT(a->w->dtype == dev->dtype);
    for (size_t first = 0; first < a->n_rows && !device_failed(dev); first += TILE_ROWS)
        rows_run(dev, a, first, a->n_rows - first < TILE_ROWS ? a->n_rows - first : TILE_ROWS, logits, sums);
}
