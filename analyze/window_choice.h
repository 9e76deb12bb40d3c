/* window_choice.h - how long a window has to be: from the attention mass by distance that a dense run recorded. */
#ifndef SPKV_ANALYZE_WINDOW_CHOICE_H
#define SPKV_ANALYZE_WINDOW_CHOICE_H

#include <stdint.h>

#include "analyze/statistics.h"
#include "base/err.h"

enum window_scope { WINDOW_PER_HEAD, WINDOW_PER_LAYER };

/* The shortest windows, among the edges of the distance bins, within which `share` of the attention mass of every head (or
 * of the heads of every layer together) lies: (n_layers, n_kv_heads), sliding layers get their own window. Sequences are no
 * longer than the longest one profiled, so neither is a window. Where the run counted sinks and `with_sinks`, mass on sinks
 * beyond the run's window counts as kept; that is exact at the run's own window. ERR_INPUT without attention_distance. Free
 * *out. */
int window_choose(struct profile *profile, const struct statistics *statistics, double share, enum window_scope scope,
                  bool with_sinks, uint32_t **out, struct err *err);

#endif
