#include "engine/rope.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

/* theta ^ (2 i / head_dim) in f32: the exponent rounded to f32, the power rounded once. */
static float frequency_power(double theta, int head_dim, int i) {
    float exponent = (float)(2 * i) / (float)head_dim;
    return (float)pow((double)(float)theta, (double)exponent);
}

/* Llama 3: wavelengths beyond the original context are stretched by factor, short ones kept, a blend between. */
static float llama3_frequency(const struct rope_config *rope, float inv_freq) {
    float length = (float)rope->original_max_positions, factor = (float)rope->factor;
    float wavelength = (float)(2 * M_PI) / inv_freq;
    double low_wavelength = rope->original_max_positions / rope->low_freq_factor;
    double high_wavelength = rope->original_max_positions / rope->high_freq_factor;
    if (wavelength < (float)high_wavelength)
        return inv_freq;
    if (wavelength > (float)low_wavelength)
        return inv_freq / factor;
    float smooth = (length / wavelength - (float)rope->low_freq_factor) /
                   (float)(rope->high_freq_factor - rope->low_freq_factor);
    float slow = (1 - smooth) * inv_freq / factor, fast = smooth * inv_freq;
    return slow + fast;
}

/* YaRN: the dimension that turns `rotations` times within the original context. */
static double yarn_dimension(const struct rope_config *rope, int head_dim, double rotations) {
    return head_dim * log(rope->original_max_positions / (rotations * 2 * M_PI)) / (2 * log(rope->theta));
}

static void yarn_range(const struct rope_config *rope, int head_dim, double *low, double *high) {
    *low = yarn_dimension(rope, head_dim, rope->beta_fast);
    *high = yarn_dimension(rope, head_dim, rope->beta_slow);
    if (rope->truncate) {
        *low = floor(*low);
        *high = ceil(*high);
    }
    *low = fmax(*low, 0);
    *high = fmin(*high, head_dim - 1);
    if (*low == *high)
        *high += 0.001; /* no division by zero, as in the reference */
}

/* 0 for dimensions that are kept, 1 for those divided by factor. */
static float yarn_ramp(double low, double high, int i) {
    float ramp = ((float)i - (float)low) / (float)(high - low);
    return ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
}

static double yarn_mscale(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double yarn_attention_factor(const struct rope_config *rope) {
    if (rope->attention_factor > 0)
        return rope->attention_factor;
    if (rope->mscale > 0 && rope->mscale_all_dim > 0)
        return yarn_mscale(rope->factor, rope->mscale) / yarn_mscale(rope->factor, rope->mscale_all_dim);
    return yarn_mscale(rope->factor, 1);
}

static float yarn_frequency(const struct rope_config *rope, float power, float ramp) {
    float extrapolation = 1 / power, interpolation = 1 / ((float)rope->factor * power), keep = 1 - ramp;
    float slow = interpolation * (1 - keep), fast = extrapolation * keep;
    return slow + fast;
}

void rope_frequencies(const struct rope_config *rope, int head_dim, float *inv_freq, float *attention_factor) {
    double low = 0, high = 0;
    if (rope->type == ROPE_YARN)
        yarn_range(rope, head_dim, &low, &high);
    for (int i = 0; i < head_dim / 2; i++) {
        float power = frequency_power(rope->theta, head_dim, i);
        switch (rope->type) {
        case ROPE_DEFAULT:
        case ROPE_DYNAMIC: inv_freq[i] = 1 / power; break; /* up to the original length they are the same */
        case ROPE_LINEAR: inv_freq[i] = 1 / power / (float)rope->factor; break;
        case ROPE_LLAMA3: inv_freq[i] = llama3_frequency(rope, 1 / power); break;
        case ROPE_YARN: inv_freq[i] = yarn_frequency(rope, power, yarn_ramp(low, high, i)); break;
        }
    }
    *attention_factor = rope->type == ROPE_YARN ? (float)yarn_attention_factor(rope) : 1;
}

int rope_table(const struct rope_config *rope, int head_dim, int max_positions, size_t n_pos, float *out, struct err *err) {
    size_t half = (size_t)head_dim / 2;
    float attention_factor, *inv_freq;
    ASSERT(head_dim > 0 && head_dim % 2 == 0);
    if (rope->type == ROPE_DYNAMIC && n_pos > (size_t)max_positions)
        return err_set(err, ERR_INPUT, "config.json",
                       "%zu positions were asked for, but dynamic RoPE changes its frequencies beyond "
                       "max_position_embeddings (%d), so that results would depend on the chunking: lower --max-length",
                       n_pos, max_positions);
    inv_freq = mem_alloc(half, sizeof *inv_freq, "RoPE frequencies", err);
    if (!inv_freq)
        return ERR_MEMORY;
    rope_frequencies(rope, head_dim, inv_freq, &attention_factor);
    for (size_t p = 0; p < n_pos; p++)
        for (size_t i = 0; i < half; i++) {
            float angle = (float)p * inv_freq[i];
            out[p * 2 * half + i] = (float)cos((double)angle) * attention_factor;
            out[p * 2 * half + half + i] = (float)sin((double)angle) * attention_factor;
        }
    free(inv_freq);
    return OK;
}
