/* rope.h - cosine and sine tables of rotary position embeddings (arXiv 2104.09864) in the kinds of struct rope_config:
 * default, linear, dynamic NTK up to its original length, llama3, YaRN (arXiv 2309.00071). Pure functions.
 *
 * Numbers. transformers computes inverse frequencies in f32, multiplies them by the position in f32 and takes cosine and
 * sine in f32. An angle of 8000 rounded to f32 is off by up to 2.4e-4, so that a table made in double would differ by that
 * much: the same roundings are made here, step by step. Only the library functions (pow, cos, sin) are evaluated in double
 * and rounded once, which is what a correctly rounded f32 function gives; torch's vectorised pow differs from that in the
 * last bit of about 1 % of the frequencies, and differs between its own CPU variants in the same way. */
#ifndef SPKV_ENGINE_ROPE_H
#define SPKV_ENGINE_ROPE_H

#include <stddef.h>

#include "base/err.h"
#include "engine/config.h"

/* inv_freq (head_dim / 2): radians per position of each pair of dimensions; *attention_factor multiplies every cosine and
 * sine (1 except for YaRN). head_dim is even. */
void rope_frequencies(const struct rope_config *rope, int head_dim, float *inv_freq, float *attention_factor);

/* out (n_pos, head_dim): row p holds head_dim / 2 cosines, then as many sines of position p, attention factor included: the
 * table of struct rope_args. `max_positions` is the model's max_position_embeddings. ERR_INPUT for the dynamic kind when
 * n_pos exceeds the original length: from there on its frequencies depend on the length of the text. */
int rope_table(const struct rope_config *rope, int head_dim, int max_positions, size_t n_pos, float *out, struct err *err);

#endif
