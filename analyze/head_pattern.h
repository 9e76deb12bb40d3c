/* head_pattern.h - how much context each head needs, as other tools publish it: their files, the matrix that comes out, the
 * layout it makes. What spkv writes for them is interchange.h.
 *
 *   duo-attention  full_attention_heads.tsv: layers x KV heads, tabs, trained gates (1 = full attention; values outside
 *                  0..1 are clipped, as its readers do), beside a config.json with sink_size and recent_size
 *   wg-kv          SPARSITY_retain_ratio.tsv: layers x KV heads, tabs, share of pairs that is kept
 *   wg-kv-log      what --dump_global_lengths writes: layers x KV heads, commas, kept beyond the window / length
 *   kvpress        a JSON list of compression_ratios, one a layer, the share that is removed
 *   layer-types    a Hugging Face config.json with layer_types
 *
 * Files come from strangers: memory grows with what was read, never with what a file announces. */
#ifndef SPKV_ANALYZE_HEAD_PATTERN_H
#define SPKV_ANALYZE_HEAD_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyze/layout.h"
#include "base/err.h"

enum head_pattern_format {
    HEAD_PATTERN_DUO_ATTENTION,
    HEAD_PATTERN_WG_KV,
    HEAD_PATTERN_WG_KV_LOG,
    HEAD_PATTERN_KVPRESS,
    HEAD_PATTERN_LAYER_TYPES,
    HEAD_PATTERN_N_FORMATS,
};

struct head_pattern {
    enum head_pattern_format format;
    uint32_t n_layers, n_kv_heads;
    double *value;            /* (n_layers, n_kv_heads) 0 to 1, 1 = needs everything; owned */
    size_t n_clipped;         /* duo-attention: values that were outside 0..1 */
    size_t n_unknown;         /* layer-types: kinds of attention that are not known, taken as full */
    uint32_t window, sinks;   /* as the file says; window 0 = not said */
};

/* "duo-attention", ...; the number of formats for another name. */
const char *head_pattern_format_name(enum head_pattern_format format);
enum head_pattern_format head_pattern_find_format(const char *name);

/* Reads a file, or a directory that holds full_attention_heads.tsv or config.json. format HEAD_PATTERN_N_FORMATS: found from
 * content and neighbours (a TSV beside a config.json with sink_size is DuoAttention's). n_kv_heads: of the model, for files
 * that have one value a layer; 0 = not known, which is ERR_INPUT where it is needed. ERR_INPUT names file and line. */
int head_pattern_read(const char *path, enum head_pattern_format format, uint32_t n_kv_heads, struct head_pattern *out,
                      struct err *err);
/* The same of text in memory, without neighbours; `path` stands in errors. */
int head_pattern_parse(const char *text, size_t n, const char *path, enum head_pattern_format format, uint32_t n_kv_heads,
                       struct head_pattern *out, struct err *err);
void head_pattern_free(struct head_pattern *pattern); /* legal on a zeroed struct */

/* How many heads have a value of at least `threshold`; sliding (n_layers) may be NULL. */
size_t head_pattern_count(const struct head_pattern *pattern, double threshold, const bool *sliding);

/* The n_global heads of largest value become global, made_by.strategy "imported". Ties go to the lower layer, then the lower
 * head; where the budget cuts through a tie, made_by.ties says so. ERR_INPUT when n_global exceeds the eligible heads. */
int head_pattern_layout(const struct head_pattern *pattern, size_t n_global, uint32_t window, uint32_t sinks,
                        const bool *sliding, struct layout **out, struct err *err);

#endif
