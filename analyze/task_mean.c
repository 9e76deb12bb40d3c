#include "analyze/task_mean.h"

#include <math.h>
#include <stdlib.h>

#include "analyze/bootstrap.h"
#include "base/mem.h"
#include "base/rng.h"

double task_mean(const struct task_scores *tasks, size_t n_tasks) {
    double sum = 0, weight = 0;
    for (size_t k = 0; k < n_tasks; k++) {
        double task = 0;
        for (size_t i = 0; i < tasks[k].n; i++)
            task += tasks[k].score[i];
        sum += tasks[k].weight * task / (double)tasks[k].n;
        weight += tasks[k].weight;
    }
    return n_tasks ? sum / weight : (double)NAN;
}

static double resampled_mean(const struct task_scores *tasks, size_t n_tasks, uint64_t seed, uint64_t resample) {
    double sum = 0, weight = 0;
    for (size_t k = 0; k < n_tasks; k++) {
        double task = 0;
        for (size_t i = 0; i < tasks[k].n; i++) {
            double u = (double)rng_uniform(seed, resample, (uint32_t)k, 0, (uint32_t)i);
            task += tasks[k].score[(size_t)(u * (double)tasks[k].n)];
        }
        sum += tasks[k].weight * task / (double)tasks[k].n;
        weight += tasks[k].weight;
    }
    return sum / weight;
}

int task_mean_interval(const struct task_scores *tasks, size_t n_tasks, const struct resampling *resampling,
                       struct estimate *out, struct err *err) {
    *out = (struct estimate){NAN, NAN, NAN};
    if (n_tasks == 0)
        return OK;
    double *means = mem_alloc(resampling->n, sizeof *means, "resamples", err);
    if (!means)
        return ERR_MEMORY;
    for (uint32_t r = 0; r < resampling->n; r++)
        means[r] = resampled_mean(tasks, n_tasks, resampling->seed, r);
    struct interval interval = interval_of(means, resampling->n, resampling->level);
    *out = (struct estimate){task_mean(tasks, n_tasks), interval.low, interval.high};
    free(means);
    return OK;
}
