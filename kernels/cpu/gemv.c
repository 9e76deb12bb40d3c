/* Products of few rows: bound by reading the weight once. */
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/vmath.h"
#if ISA_X86
#include <immintrin.h>
#endif

enum {
    GEMV_OUTPUTS = 4,     /* rows of w side by side: independent sums, one read of x */
    PREFETCH_BLOCKS = 2,
    PREFETCH_BYTES = 2048, /* ahead in a stream */
};

static INLINE float widen_one(const void *w, enum dtype dtype, size_t i) {
    const uint16_t *half = w;
    if (dtype == DTYPE_F32)
        return ((const float *)w)[i];
    return dtype == DTYPE_F16 ? f16_widen(half[i]) : f32_from_bits((uint32_t)half[i] << 16);
}

static INLINE void dot4(const void *w, size_t row_bytes, enum dtype dtype, const float *x, size_t n, float out[4],
                        enum isa isa) {
    const char *w0 = w, *w1 = w0 + row_bytes, *w2 = w1 + row_bytes, *w3 = w2 + row_bytes;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (size_t i = 0; i < n; i++) {
        s0 = madd(widen_one(w0, dtype, i), x[i], s0, isa);
        s1 = madd(widen_one(w1, dtype, i), x[i], s1, isa);
        s2 = madd(widen_one(w2, dtype, i), x[i], s2, isa);
        s3 = madd(widen_one(w3, dtype, i), x[i], s3, isa);
    }
    out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;
}

/* y of outputs [begin, end) of the product for all rows; x (n_rows, n_in) f32. */
static INLINE void gemv_dtype(const struct product *p, const float *x, struct range outputs, enum dtype dtype,
                              enum isa isa) {
    size_t n_in = p->w->n_cols, row_bytes = n_in * dtype_size(dtype);
    for (size_t o = outputs.begin; o < outputs.end; o += GEMV_OUTPUTS) {
        size_t n = outputs.end - o < GEMV_OUTPUTS ? outputs.end - o : GEMV_OUTPUTS;
        const char *w = weight_row(p->w, o);
        for (size_t i = 0; i < n * row_bytes; i += 64) /* hardware alone reaches half of the bandwidth */
            __builtin_prefetch(w + PREFETCH_BLOCKS * GEMV_OUTPUTS * row_bytes + i);
        for (size_t r = 0; r < p->n_rows; r++) {
            float sum[GEMV_OUTPUTS], *y = p->y + r * p->ld_y + o - p->outputs.begin;
            /* A last group of fewer rows reads its first row several times. */
            dot4(w, n == GEMV_OUTPUTS ? row_bytes : 0, dtype, x + r * n_in, n_in, sum, isa);
            for (size_t i = 1; n < GEMV_OUTPUTS && i < n; i++) {
                float other[GEMV_OUTPUTS];
                dot4(w + i * row_bytes, 0, dtype, x + r * n_in, n_in, other, isa);
                sum[i] = other[0];
            }
            for (size_t i = 0; i < n; i++)
                y[i] = sum[i] + (p->bias ? p->bias[o + i] : 0.0f);
        }
    }
}

static INLINE void gemv_body(const struct product *p, const float *x, struct range outputs, enum isa isa) {
    if (p->w->dtype == DTYPE_F32)
        gemv_dtype(p, x, outputs, DTYPE_F32, isa);
    else if (p->w->dtype == DTYPE_F16)
        gemv_dtype(p, x, outputs, DTYPE_F16, isa);
    else
        gemv_dtype(p, x, outputs, DTYPE_BF16, isa);
}

static void gemv_scalar(const struct product *p, const float *x, struct range outputs) {
    gemv_body(p, x, outputs, ISA_SCALAR);
}

#if ISA_X86
/* 8 stored elements from the i-th on */
static INLINE TARGET_AVX2 __m256 widen_8(const char *w, enum dtype dtype, size_t i) {
    if (dtype == DTYPE_F32)
        return _mm256_loadu_ps((const float *)(const void *)w + i);
    __m128i half = _mm_loadu_si128((const __m128i *)(const void *)(w + 2 * i));
    if (dtype == DTYPE_F16)
        return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

static INLINE TARGET_AVX2 float sum_8(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* n_rows <= 4 rows of x, a constant. Outputs in order, so that each thread reads its part of the weight as one stream. */
static INLINE TARGET_AVX2 void gemv_rows_avx2(const struct product *p, const float *x, struct range outputs, size_t n_rows,
                                              enum dtype dtype) {
    size_t n_in = p->w->n_cols, size = dtype_size(dtype);
    for (size_t o = outputs.begin; o < outputs.end; o++) {
        const char *w = weight_row(p->w, o);
        __m256 s[GEMV_MAX_ROWS][2];
        size_t i = 0;
#pragma GCC unroll 4
        for (size_t r = 0; r < n_rows; r++)
            s[r][0] = s[r][1] = _mm256_setzero_ps();
        for (; i + 32 <= n_in; i += 32) {
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++) {
                __m256 wide = widen_8(w, dtype, i + j * 8);
                if (j * 8 * size % 64 == 0)
                    _mm_prefetch(w + (i + j * 8) * size + PREFETCH_BYTES, _MM_HINT_T0);
#pragma GCC unroll 4
                for (size_t r = 0; r < n_rows; r++)
                    s[r][j % 2] = _mm256_fmadd_ps(wide, _mm256_loadu_ps(x + r * n_in + i + j * 8), s[r][j % 2]);
            }
        }
        for (; i + 8 <= n_in; i += 8) {
            __m256 wide = widen_8(w, dtype, i);
#pragma GCC unroll 4
            for (size_t r = 0; r < n_rows; r++)
                s[r][0] = _mm256_fmadd_ps(wide, _mm256_loadu_ps(x + r * n_in + i), s[r][0]);
        }
#pragma GCC unroll 4
        for (size_t r = 0; r < n_rows; r++) {
            float sum = sum_8(_mm256_add_ps(s[r][0], s[r][1]));
            for (size_t j = i; j < n_in; j++)
                sum = madd(widen_one(w, dtype, j), x[r * n_in + j], sum, ISA_AVX2);
            p->y[r * p->ld_y + o - p->outputs.begin] = sum + (p->bias ? p->bias[o] : 0.0f);
        }
    }
}

static INLINE TARGET_AVX2 void gemv_dtype_avx2(const struct product *p, const float *x, struct range outputs,
                                               size_t n_rows) {
    if (p->w->dtype == DTYPE_F32)
        gemv_rows_avx2(p, x, outputs, n_rows, DTYPE_F32);
    else if (p->w->dtype == DTYPE_F16)
        gemv_rows_avx2(p, x, outputs, n_rows, DTYPE_F16);
    else
        gemv_rows_avx2(p, x, outputs, n_rows, DTYPE_BF16);
}

static TARGET_AVX2 void gemv_avx2(const struct product *p, const float *x, struct range outputs) {
    ASSERT(p->n_rows <= GEMV_MAX_ROWS);
    if (p->n_rows == 1)
        gemv_dtype_avx2(p, x, outputs, 1);
    else if (p->n_rows == 2)
        gemv_dtype_avx2(p, x, outputs, 2);
    else if (p->n_rows == 3)
        gemv_dtype_avx2(p, x, outputs, 3);
    else
        gemv_dtype_avx2(p, x, outputs, 4);
}

static TARGET_AVX512 void gemv_avx512(const struct product *p, const float *x, struct range outputs) {
    gemv_body(p, x, outputs, ISA_AVX512);
}
#endif

/* A part of the outputs for the calling thread, in whole groups. */
static struct range thread_outputs(struct range outputs) {
    size_t n = outputs.end - outputs.begin;
    struct range groups = thread_range((n + GEMV_OUTPUTS - 1) / GEMV_OUTPUTS);
    size_t begin = groups.begin * GEMV_OUTPUTS, end = groups.end * GEMV_OUTPUTS;
    return (struct range){outputs.begin + (begin < n ? begin : n), outputs.begin + (end < n ? end : n)};
}

#if ISA_X86
/* One row of x in bf16: outputs in order, so that each thread reads its part of the weight as one stream. */
static TARGET_AMX void gemv_row_bf16(const struct product *p, struct range outputs) {
    size_t n_in = p->w->n_cols, whole = n_in / 32 * 32;
    __mmask32 rest = (__mmask32)((1ull << (n_in - whole)) - 1);
    const uint16_t *x = p->x;
    for (size_t o = outputs.begin; o < outputs.end; o++) {
        const uint16_t *w = (const uint16_t *)(const void *)weight_row(p->w, o);
        __m512 even = _mm512_setzero_ps(), odd = even;
        size_t i = 0;
        for (; i + 64 <= whole; i += 64) {
            _mm_prefetch((const char *)(w + i) + PREFETCH_BYTES, _MM_HINT_T0);
            _mm_prefetch((const char *)(w + i) + PREFETCH_BYTES + 64, _MM_HINT_T0);
            even = _mm512_dpbf16_ps(even, (__m512bh)_mm512_loadu_si512(w + i), (__m512bh)_mm512_loadu_si512(x + i));
            odd = _mm512_dpbf16_ps(odd, (__m512bh)_mm512_loadu_si512(w + i + 32),
                                   (__m512bh)_mm512_loadu_si512(x + i + 32));
        }
        if (i < whole)
            even = _mm512_dpbf16_ps(even, (__m512bh)_mm512_loadu_si512(w + i), (__m512bh)_mm512_loadu_si512(x + i));
        if (rest)
            odd = _mm512_dpbf16_ps(odd, (__m512bh)_mm512_maskz_loadu_epi16(rest, w + whole),
                                   (__m512bh)_mm512_maskz_loadu_epi16(rest, x + whole));
        p->y[o - p->outputs.begin] = _mm512_reduce_add_ps(_mm512_add_ps(even, odd)) + (p->bias ? p->bias[o] : 0.0f);
    }
}

void gemv_run_bf16(struct device *dev, const struct product *p) {
    size_t n_bytes = (p->outputs.end - p->outputs.begin) * p->w->n_cols * 2;
    ASSERT(p->n_rows == 1 && p->w->dtype == DTYPE_BF16);
#pragma omp parallel num_threads(threads_for_bytes(dev, n_bytes))
    gemv_row_bf16(p, thread_outputs(p->outputs));
}
#endif

void gemv_run(struct device *dev, const struct product *p) {
    static void (*const table[])(const struct product *, const float *, struct range) = ISA_TABLE(gemv);
    size_t n = p->n_rows * p->w->n_cols;
    size_t n_bytes = (p->outputs.end - p->outputs.begin) * p->w->n_cols * dtype_size(p->w->dtype);
    const float *x = p->x;
    if (p->x_dtype != DTYPE_F32) {
        float *wide = device_scratch(dev, SCRATCH_ROWS, n * sizeof *wide);
        if (!wide)
            return;
        device_widen(dev, p->x, p->x_dtype, n, wide);
        x = wide;
    }
#pragma omp parallel num_threads(threads_for_bytes(dev, n_bytes))
    table[dev->isa](p, x, thread_outputs(p->outputs));
}
