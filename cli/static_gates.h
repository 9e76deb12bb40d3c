/* static_gates.h - gates that do not look at the text: one number per KV head, trained by the loss itself
 * (spkv train adapt --static-gates). Which heads need to be global, as the model sees it. */
#ifndef SPKV_CLI_STATIC_GATES_H
#define SPKV_CLI_STATIC_GATES_H

#include "analyze/profile_meta.h"
#include "base/err.h"

/* Utilities (n_layers, n_kv_heads), sigmoid of the trained numbers, NaN in sliding layers, of a checkpoint directory that
 * has static gates; ERR_INPUT when it has none or does not fit the profiled model. *same_base: it is the same model without its
 * gates. Free *out. */
int static_gates_read(const char *dir, const struct profile_meta *meta, double **out, bool *same_base, struct err *err);

#endif
