/* interchange.h - head patterns in the files of other tools: what spkv writes for them. What it reads is head_pattern.h,
 * which says what the files look like. Every file appears complete or not at all. */
#ifndef SPKV_ANALYZE_INTERCHANGE_H
#define SPKV_ANALYZE_INTERCHANGE_H

#include <stdbool.h>
#include <stdint.h>

#include "analyze/layout.h"
#include "base/err.h"

/* Share of the pairs of one sequence of `context` tokens that each head holds under a layout, (n_layers, n_kv_heads): 1 for
 * global heads, and for the model's own sliding ones, which a layout does not touch. Free *out. */
int interchange_retained(const struct layout *layout, uint64_t context, double **out, struct err *err);

/* 1 for global heads, else 0, as DuoAttention's gates. Free *out. */
int interchange_gates(const struct layout *layout, double **out, struct err *err);

/* DIR/full_attention_heads.tsv, as numpy.savetxt writes it, and DIR/config.json with sink_size and recent_size. value
 * (n_layers, n_kv_heads) without NaN. ERR_EXISTS unless force. */
int interchange_write_duo_attention(const double *value, uint32_t n_layers, uint32_t n_kv_heads, uint32_t sinks,
                                    uint32_t recent, const char *dir, bool force, struct err *err);

/* Retain ratios with tabs and 4 decimals, or, `log`, as WG-KV's log with commas and 6. */
int interchange_write_wg_kv(const double *value, uint32_t n_layers, uint32_t n_kv_heads, bool log, const char *path,
                            struct err *err);

/* kvpress's compression_ratios of PerLayerCompressionPress, a JSON list: 1 - the mean of a layer's values, the next smaller
 * number of 6 decimals, so that int(length * (1 - ratio)) is no pair short. */
int interchange_write_kvpress(const double *value, uint32_t n_layers, uint32_t n_kv_heads, const char *path,
                              struct err *err);

#endif
