/* task_mean.h - the mean of several tasks' mean scores, and how sure it is: items are drawn anew within every task (a
 * stratified bootstrap, Efron and Tibshirani 1993), because the tasks are fixed and their items are not. Plain values, any
 * thread. */
#ifndef SPKV_ANALYZE_TASK_MEAN_H
#define SPKV_ANALYZE_TASK_MEAN_H

#include <stddef.h>

#include "analyze/paired.h"
#include "base/err.h"

struct task_scores {
    const double *score; /* (n), n >= 1 */
    size_t n;
    double weight;       /* of the task's mean; > 0 */
};

/* Sum of weight x mean over the sum of weights; NaN without tasks. */
double task_mean(const struct task_scores *tasks, size_t n_tasks);

/* The same with its percentile interval (quantiles interpolate linearly). Draw i of task k in resample r is item
 * floor(rng_uniform(seed, r, k, 0, i) * n). */
int task_mean_interval(const struct task_scores *tasks, size_t n_tasks, const struct resampling *resampling,
                       struct estimate *out, struct err *err);

#endif
