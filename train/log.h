/* log.h - what a training run reports about its steps: OUT/log.csv, a line a step, and OUT/heads.csv, densities per layer
 * and KV head. Lines are flushed as they are written. A resumed run cuts both back to its saved step, so that they equal an
 * undisturbed run's apart from times. One thread. */
#ifndef SPKV_TRAIN_LOG_H
#define SPKV_TRAIN_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct train_log;

/* Opens both files in OUT, keeping the lines of steps up to `step` (0: begins anew). ERR_INPUT when a file that is to be
 * kept has other columns. */
int train_log_open(const char *out_dir, int64_t step, struct train_log **out, struct err *err);
int train_log_close(struct train_log *log, struct err *err); /* legal on NULL; frees whatever happens */

/* NaN leaves a cell empty: what was not measured in this step. Losses in nats per predicted token. */
struct train_log_row {
    int64_t step;
    uint64_t n_tok;                             /* fed since the start of the run */
    double loss;                                /* of this step, under its gates */
    double lr_model, lr_predictor, blend, density_weight;
    double gate_density, long_range_density;    /* by the threshold, over this step's tokens */
    double grad_norm;                           /* before clipping */
    double tok_per_s;
    double eval_nll_hard, eval_nll_full;        /* held-out loss with hard gates, and with full attention */
    double eval_gate_density, eval_long_range_density;
    double gemm_frac;                           /* tok_per_s over what the machine's matrix products would allow */
};
int train_log_step(struct train_log *log, const struct train_log_row *row, struct err *err);

/* density (n_layers, n_kv_heads): long-range density of every head in this step, NaN where there is none. */
int train_log_heads(struct train_log *log, int64_t step, int n_layers, int n_kv_heads, const double *density,
                    struct err *err);

#endif
