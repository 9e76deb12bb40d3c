/* run.h - drives a session over a source of sequences and reports to an observer. Knows neither files nor formats.
 *
 * The batch plan is a pure function of the source's list: batch b holds the sequences b * batch .. b * batch + batch - 1.
 * Each step feeds up to `chunk` tokens of every sequence of the batch that is not finished. Shards and resumed runs take
 * whole batches, so that every sequence sees the same steps as in an undisturbed run. */
#ifndef SPKV_ENGINE_RUN_H
#define SPKV_ENGINE_RUN_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/model.h"
#include "engine/observer.h"
#include "engine/policy.h"
#include "engine/source.h"

struct run_options {
    const struct policy *policy;
    int batch, chunk, max_len;
    bool dense_prefill;                 /* gates act on the cache only after the last token of a sequence */
    uint64_t limit;                     /* sequences, 0 = all; counted before sharding */
    int shard, n_shards;                /* batches b with b % n_shards == shard are run; n_shards >= 1 */
    bool (*batch_done)(void *self, uint64_t batch); /* resumed runs: skip this batch; NULL = run all */
    void *batch_done_self;
    const volatile sig_atomic_t *stop;  /* when set: finish the batch, return ERR_INCOMPLETE; NULL = never */
    void (*on_step)(void *self, uint64_t n_tok); /* progress: tokens run so far; NULL = none */
    void *on_step_self;
};

struct run_totals {
    uint64_t n_batches, n_sequences, n_tok, n_predicted;
    double nll_sum;
    uint64_t model_us; /* time inside the model, without reading the source and reporting */
};

/* ERR_INCOMPLETE after a stop; everything reported until then is complete. */
int run_source(const struct model *model, const struct source *source, const struct observer *observer,
               const struct run_options *options, struct run_totals *totals, struct err *err);

#endif
