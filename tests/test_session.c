/* test_session.c - what must hold whatever the model: the same result for any chunk, batch, threads and backend; threshold 0
 * is full attention, threshold 2 the window; equal settings give equal bits; dense prefill; the batch plan of runs. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "engine/run.h"
#include "engine/session.h"
#include "kernels/cpu/cpu.h"
#include "tests/model_case.h"
#include "tests/must.h"

enum { N_SEQ = 3, MAX_LEN = 250, MAX_LANES = 64 };

static const int lengths[N_SEQ] = {250, 41, 137};

struct fixture {
    struct model_case model_case;
    int32_t tokens[N_SEQ][MAX_LEN];
};

/* What a run left behind. */
struct outcome {
    float nll[N_SEQ][MAX_LEN];
    uint32_t n_kept[N_SEQ][MAX_LANES];
    uint64_t visible[N_SEQ][MAX_LANES];
    size_t used[N_SEQ], allocated[N_SEQ];
    double nearest_gate; /* smallest |u - threshold| met */
};

struct plan {
    const struct ops *ops;
    const char *policy;
    double threshold; /* NaN = the predictor's */
    int chunk, n_threads;
    bool one_by_one, dense;
};

static int setup(void **state) {
    static struct fixture f;
    model_case_open("llama-gqa", &f.model_case);
    int vocab = checkpoint_config(f.model_case.checkpoint)->vocab_size;
    for (int i = 0; i < N_SEQ; i++)
        for (int t = 0; t < MAX_LEN; t++)
            f.tokens[i][t] = (int32_t)(rng_uniform(3, (uint64_t)i, 0, 0, (uint32_t)t) * (float)vocab);
    *state = &f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    model_case_close(&f->model_case);
    return 0;
}

static struct policy *make_policy(const struct fixture *f, const struct plan *plan) {
    struct policy_request request = {.model = checkpoint_config(f->model_case.checkpoint),
                                     .predictor = checkpoint_predictor(f->model_case.checkpoint), .window = 9, .sinks = 2,
                                     .threshold = plan->threshold, .seed = 5};
    struct policy *policy;
    struct err err = {0};
    must(policy_create(plan->policy, &request, &policy, &err), &err);
    return policy;
}

static void note_gates(const struct policy *policy, struct session *s, size_t n, struct outcome *out) {
    const float *u;
    const uint8_t *open;
    struct err err = {0};
    must(session_gates(s, &u, &open, &err), &err);
    for (size_t i = 0; policy->gated && i < n; i++)
        out->nearest_gate = fmin(out->nearest_gate, fabs((double)u[i] - policy->threshold));
}

static bool step(const struct fixture *f, const struct plan *plan, const struct policy *policy, struct session *s, int first,
                 int n_seq, const int *sequence, struct outcome *out) {
    const struct model_config *c = checkpoint_config(f->model_case.checkpoint);
    int slots[N_SEQ], n_tok[N_SEQ], n = 0, rows = 0;
    const int32_t *tokens[N_SEQ];
    int32_t target[N_SEQ * MAX_LEN];
    float nll[N_SEQ * MAX_LEN];
    struct err err = {0};
    for (int i = 0; i < n_seq; i++) {
        int left = lengths[sequence[i]] - first, take = left < plan->chunk ? left : plan->chunk;
        if (take <= 0)
            continue;
        slots[n] = i;
        tokens[n] = f->tokens[sequence[i]] + first;
        n_tok[n++] = take;
        for (int j = 0; j < take; j++)
            target[rows++] = first + j + 1 < lengths[sequence[i]] ? f->tokens[sequence[i]][first + j + 1] : -1;
    }
    if (n == 0)
        return false;
    must(session_feed(s, &(struct feed){n, slots, tokens, n_tok}, &err), &err);
    must(session_nll(s, target, nll, NULL, &err), &err);
    note_gates(policy, s, (size_t)rows * (size_t)(c->n_layers * c->n_kv_heads), out);
    for (int i = 0, row = 0; i < n; i++)
        for (int j = 0; j < n_tok[i]; j++, row++)
            out->nll[sequence[slots[i]]][first + j] = nll[row];
    return true;
}

static void run_group(const struct fixture *f, const struct plan *plan, const struct model *model,
                      const struct policy *policy, int n_seq, const int *sequence, struct outcome *out) {
    struct session *s;
    struct err err = {0};
    struct session_options options = {.n_slots = n_seq, .max_len = MAX_LEN, .max_rows = (size_t)n_seq * (size_t)plan->chunk,
                                      .policy = policy, .dense_prefill = plan->dense};
    must(session_create(model, &options, &s, &err), &err);
    for (int i = 0; i < n_seq; i++)
        session_reset(s, i, (uint64_t)sequence[i]);
    for (int first = 0; step(f, plan, policy, s, first, n_seq, sequence, out); first += plan->chunk)
        must(kv_cache_check(session_cache(s), &err), &err);
    for (int i = 0; i < n_seq; i++) {
        struct kv_counts counts = {.n_kept = out->n_kept[sequence[i]], .visible_pairs = out->visible[sequence[i]]};
        session_end_prefill(s, i);
        must(kv_cache_check(session_cache(s), &err), &err);
        must(kv_cache_read_counts(session_cache(s), i, &counts, &err), &err);
        out->used[sequence[i]] = counts.used_bytes;
        out->allocated[sequence[i]] = counts.allocated_bytes;
    }
    session_free(s);
}

static void run_plan(const struct fixture *f, const struct plan *plan, struct outcome *out) {
    static const int all[N_SEQ] = {0, 1, 2};
    struct device *dev;
    struct model *model;
    struct policy *policy = make_policy(f, plan);
    struct err err = {0};
    memset(out, 0, sizeof *out);
    out->nearest_gate = INFINITY;
    must(plan->ops->open(&(struct device_options){.n_threads = plan->n_threads}, &dev, &err), &err);
    must(model_load(f->model_case.checkpoint, plan->ops, dev, &model, &err), &err);
    if (plan->one_by_one)
        for (int i = 0; i < N_SEQ; i++)
            run_group(f, plan, model, policy, 1, &i, out);
    else
        run_group(f, plan, model, policy, N_SEQ, all, out);
    model_free(model);
    plan->ops->close(dev);
    policy_free(policy);
}

/* The bar is on the losses of sequences: the mean of their tokens' differences. Single tokens are shown. */
static void assert_close(const struct outcome *a, const struct outcome *b, const char *what) {
    double worst = 0, worst_mean = 0;
    for (int i = 0; i < N_SEQ; i++) {
        double sum = 0;
        for (int t = 0; t + 1 < lengths[i]; t++) {
            double difference = fabs((double)a->nll[i][t] - (double)b->nll[i][t]);
            worst = fmax(worst, difference);
            sum += difference;
        }
        worst_mean = fmax(worst_mean, sum / (lengths[i] - 1));
    }
    print_message("%s: losses within %.2g nat (tokens %.2g), nearest gate %.2g\n", what, worst_mean, worst, a->nearest_gate);
    assert_true(worst_mean <= 1e-5);
    assert_memory_equal(a->n_kept, b->n_kept, sizeof a->n_kept);
    assert_memory_equal(a->visible, b->visible, sizeof a->visible);
    assert_memory_equal(a->used, b->used, sizeof a->used);
    assert_memory_equal(a->allocated, b->allocated, sizeof a->allocated);
}

static void test_any_chunk_batch_threads_backend(void **state) {
    const struct plan base = {
        .ops = ops_ref(), .policy = "spkv", .threshold = NAN, .chunk = 512, .n_threads = 1, .one_by_one = true};
    const struct plan others[] = {
        {ops_ref(), "spkv", NAN, 1, 1, true, false},   {ops_ref(), "spkv", NAN, 7, 1, false, false},
        {ops_cpu(), "spkv", NAN, 512, 2, true, false}, {ops_cpu(), "spkv", NAN, 64, 1, false, false},
        {ops_cpu(), "spkv", NAN, 7, 2, false, false},  {ops_cpu(), "spkv", NAN, 1, 2, false, false},
        {ops_cpu(), "spkv", NAN, 1, 1, true, false},   {ops_guard(), "spkv", NAN, 64, 1, false, false},
    };
    static struct outcome a, b;
    run_plan(*state, &base, &a);
    assert_true(a.nearest_gate > 1e-5); /* else kept sets may differ rightly: choose other tokens */
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        char what[96];
        run_plan(*state, &others[i], &b);
        snprintf(what, sizeof what, "%s, chunk %d, %d threads, %s", others[i].ops->name, others[i].chunk,
                 others[i].n_threads, others[i].one_by_one ? "one by one" : "together");
        assert_close(&b, &a, what);
    }
}

static void test_equal_settings_equal_bits(void **state) {
    const struct plan plans[] = {{ops_cpu(), "spkv", NAN, 64, 2, false, false},
                                 {ops_cpu(), "random:density=0.3", NAN, 7, 2, false, false}};
    static struct outcome a, b;
    for (size_t i = 0; i < 2; i++) {
        run_plan(*state, &plans[i], &a);
        run_plan(*state, &plans[i], &b);
        assert_memory_equal(&a, &b, sizeof a);
    }
}

static void test_threshold_limits(void **state) {
    const struct {
        double threshold;
        const char *policy;
    } limits[] = {{0, "full"}, {2, "window"}};
    static struct outcome a, b;
    for (size_t i = 0; i < 2; i++) {
        run_plan(*state, &(struct plan){ops_cpu(), "spkv", limits[i].threshold, 64, 2, false, false}, &a);
        run_plan(*state, &(struct plan){ops_cpu(), limits[i].policy, NAN, 64, 2, false, false}, &b);
        assert_memory_equal(a.nll, b.nll, sizeof a.nll);
        assert_memory_equal(a.n_kept, b.n_kept, sizeof a.n_kept);
        assert_memory_equal(a.visible, b.visible, sizeof a.visible);
    }
}

/* Losses of full attention, and afterwards the cache that the gates of that pass would have left. */
static void test_dense_prefill(void **state) {
    const struct ops *backends[] = {ops_ref(), ops_cpu()};
    static struct outcome full, dense, pruned, window;
    for (size_t i = 0; i < 2; i++) {
        run_plan(*state, &(struct plan){backends[i], "full", NAN, 64, 2, false, false}, &full);
        run_plan(*state, &(struct plan){backends[i], "spkv", NAN, 64, 2, false, true}, &dense);
        run_plan(*state, &(struct plan){backends[i], "spkv", NAN, 64, 2, false, false}, &pruned);
        run_plan(*state, &(struct plan){backends[i], "window", NAN, 64, 2, false, true}, &window);
        assert_memory_equal(full.nll, dense.nll, sizeof full.nll);
        assert_memory_equal(full.visible, dense.visible, sizeof full.visible);
        assert_memory_equal(dense.n_kept[0], pruned.n_kept[0],
                            sizeof(uint32_t)); /* layer 0: gates do not depend on attention */
        for (int s = 0; s < N_SEQ; s++) {
            assert_true(dense.used[s] < full.used[s] && dense.allocated[s] <= full.allocated[s]);
            assert_int_equal(window.n_kept[s][0], 0);
        }
    }
}

static void test_random_density(void **state) {
    static struct outcome a;
    uint64_t kept = 0, left = 0;
    struct fixture *f = *state;
    const struct model_config *c = checkpoint_config(f->model_case.checkpoint);
    run_plan(f, &(struct plan){ops_cpu(), "random:density=0.3", NAN, 64, 2, false, false}, &a);
    for (int i = 0; i < N_SEQ; i++)
        for (int j = 0; j < c->n_layers * c->n_kv_heads; j++) {
            kept += a.n_kept[i][j];
            left += (uint64_t)(lengths[i] - 9 - 2);
        }
    double density = (double)kept / (double)left, sigma = sqrt(0.3 * 0.7 / (double)left);
    assert_true(fabs(density - 0.3) < 4 * sigma);
}

/* The most likely token is the one that greedy sampling takes. */
static void test_argmax(void **state) {
    const struct fixture *f = *state;
    struct plan plan = {ops_cpu(), "full", NAN, 1, 1, false, false};
    struct session_options options = {.n_slots = 1, .max_len = MAX_LEN, .max_rows = 2};
    struct policy *policy = make_policy(f, &plan);
    struct device *dev;
    struct model *model;
    struct session *s;
    struct err err = {0};
    options.policy = policy;
    must(plan.ops->open(&(struct device_options){.n_threads = 1}, &dev, &err), &err);
    must(model_load(f->model_case.checkpoint, plan.ops, dev, &model, &err), &err);
    must(session_create(model, &options, &s, &err), &err);
    session_reset(s, 0, 0);
    for (int t = 0; t < 8; t++) {
        const int32_t *token = f->tokens[0] + t;
        int32_t likely, target;
        float nll;
        uint8_t is_argmax;
        must(session_feed(s, &(struct feed){1, (int[]){0}, &token, (int[]){1}}, &err), &err);
        must(session_sample(s, &(struct sampling){.top_p = 1}, &likely, &err), &err);
        must(session_nll(s, &likely, &nll, &is_argmax, &err), &err);
        assert_int_equal(is_argmax, 1);
        target = likely == 0 ? 1 : likely - 1;
        must(session_nll(s, &target, &nll, &is_argmax, &err), &err);
        assert_int_equal(is_argmax, 0);
    }
    session_free(s);
    model_free(model);
    plan.ops->close(dev);
    policy_free(policy);
}

/* Feeds n tokens of sequence `from` to a slot and returns the loss of the last one's successor. */
static float feed_some(const struct fixture *f, struct session *s, int slot, int from, int first, int n) {
    const int32_t *tokens = f->tokens[from] + first;
    int32_t target[MAX_LEN];
    float nll[MAX_LEN];
    struct err err = {0};
    for (int i = 0; i < n; i++)
        target[i] = f->tokens[from][first + i + 1];
    must(session_feed(s, &(struct feed){1, &slot, &tokens, &n}, &err), &err);
    must(session_nll(s, target, nll, NULL, &err), &err);
    must(kv_cache_check(session_cache(s), &err), &err);
    return nll[n - 1];
}

/* Two forks go different ways, and the slot that they come from does not feel them. */
static void expect_forks(const struct fixture *f, const struct plan *plan) {
    struct session_options options = {.n_slots = 4, .max_len = MAX_LEN, .max_rows = MAX_LEN, .dense_prefill = plan->dense};
    struct policy *policy = make_policy(f, plan);
    struct device *dev;
    struct model *model;
    struct session *s;
    struct err err = {0};
    struct kv_counts before = {0}, after = {0};
    float want[2], got[2];
    options.policy = policy;
    must(plan->ops->open(&(struct device_options){.n_threads = 1}, &dev, &err), &err);
    must(model_load(f->model_case.checkpoint, plan->ops, dev, &model, &err), &err);
    must(session_create(model, &options, &s, &err), &err);
    for (int i = 0; i < 2; i++) { /* unforked: the same steps in a slot of its own */
        session_reset(s, 3, 7);
        feed_some(f, s, 3, 0, 0, 150);
        session_end_prefill(s, 3);
        want[i] = feed_some(f, s, 3, 2 * i, 60, 40);
    }
    session_reset(s, 0, 7);
    feed_some(f, s, 0, 0, 0, 150);
    session_end_prefill(s, 0);
    must(kv_cache_read_counts(session_cache(s), 0, &before, &err), &err);
    for (int i = 0; i < 2; i++) {
        session_reset(s, 1 + i, 99); /* keyed as slot 0 all the same */
        must(session_fork(s, 0, 1 + i, &err), &err);
        must(kv_cache_read_counts(session_cache(s), 1 + i, &after, &err), &err);
        assert_memory_equal(&after, &before, sizeof after);
        assert_int_equal(session_length(s, 1 + i), 150);
    }
    got[1] = feed_some(f, s, 2, 2, 60, 40);
    feed_some(f, s, 1, 1, 0, 30);
    got[0] = feed_some(f, s, 0, 0, 60, 40);
    assert_memory_equal(got, want, sizeof got);
    for (int i = 0; i < 4; i++)
        session_reset(s, i, 0);
    must(kv_cache_check(session_cache(s), &err), &err);
    session_free(s);
    model_free(model);
    plan->ops->close(dev);
    policy_free(policy);
}

static void test_fork(void **state) {
    const struct plan plans[] = {{ops_cpu(), "spkv", NAN, 0, 1, false, false}, {ops_guard(), "spkv", NAN, 0, 1, false, true},
                                 {ops_cpu(), "random:density=0.5", NAN, 0, 1, false, true},
                                 {ops_guard(), "full", NAN, 0, 1, false, false},
                                 {ops_cpu(), "h2o:budget=0.3,chunk=16", NAN, 0, 1, false, false},
                                 {ops_guard(), "expected-attention:budget=0.3,chunk=16", NAN, 0, 1, false, false}};
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++)
        expect_forks(*state, &plans[i]);
}

static void test_refusals(void **state) {
    struct fixture *f = *state;
    struct plan plan = {ops_ref(), "full", NAN, 64, 1, true, false};
    struct policy *policy = make_policy(f, &plan), *none;
    struct policy_request request = {.model = checkpoint_config(f->model_case.checkpoint), .threshold = NAN, .sinks = -1};
    struct device *dev;
    struct model *model;
    struct session *s;
    struct err err = {0};
    int slot = 0, n = 1;
    int32_t wrong = checkpoint_config(f->model_case.checkpoint)->vocab_size;
    const int32_t *piece = &wrong;
    static const char *const bad[] = {"nothing",        "full:colour=red",    "random:density=2",
                                      "random:density", "window:window=0",    "layout",
                                      "full:=1",        "random:density=nan", "window:window=1.5"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memset(&err, 0, sizeof err);
        assert_int_equal(policy_create(bad[i], &request, &none, &err), ERR_USAGE);
        assert_null(none);
        assert_true(strlen(err.message) > 10);
    }
    memset(&err, 0, sizeof err);
    assert_int_equal(policy_create("spkv", &request, &none, &err), ERR_INPUT); /* no predictor */
    memset(&err, 0, sizeof err);
    must(plan.ops->open(&(struct device_options){.n_threads = 1}, &dev, &err), &err);
    must(model_load(f->model_case.checkpoint, plan.ops, dev, &model, &err), &err);
    must(session_create(model, &(struct session_options){.n_slots = 1, .max_len = 8, .max_rows = 16, .policy = policy}, &s,
                        &err),
         &err);
    session_reset(s, 0, 0);
    assert_int_equal(session_feed(s, &(struct feed){1, &slot, &piece, &n}, &err), ERR_INPUT);
    memset(&err, 0, sizeof err);
    piece = f->tokens[0];
    n = 9;
    assert_int_equal(session_feed(s, &(struct feed){1, &slot, &piece, &n}, &err), ERR_INPUT);
    memset(&err, 0, sizeof err);
    n = 8;
    must(session_feed(s, &(struct feed){1, &slot, &piece, &n}, &err), &err);
    session_free(s);
    model_free(model);
    plan.ops->close(dev);
    policy_free(policy);
}

/* --- runs ------------------------------------------------------------------------------------------------------------- */

enum { N_LISTED = 7 };

struct listed {
    const struct fixture *f;
    uint64_t next;
};

static int listed_next(void *self, struct sequence *out, int *end, struct err *err) {
    struct listed *l = self;
    (void)err;
    assert_true(l->next <= N_LISTED); /* nobody asks again after the end */
    *end = l->next == N_LISTED;
    *out = (struct sequence){.index = l->next, .document = l->next, .tokens = l->f->tokens[l->next % N_SEQ] + l->next,
                             .n_tok = 20 + 9 * (size_t)l->next};
    l->next++;
    return OK;
}

struct seen {
    int n, n_batches;
    uint64_t index[N_LISTED];
    double nll_sum[N_LISTED];
    uint64_t n_open[N_LISTED];
    sig_atomic_t stop;
    bool stop_at_first;
};

static int see_gates(void *self, const struct gate_report *g, struct err *err) {
    struct seen *s = self;
    (void)err;
    assert_int_equal(g->first, 0);
    assert_int_equal(g->n, g->sequence->n_tok);
    for (int l = 0; l < g->n_layers; l++)
        for (size_t i = 0; i < g->n * (size_t)g->n_kv_heads; i++)
            s->n_open[g->sequence->index] += g->open[(size_t)l * g->layer_stride + i];
    return OK;
}

static int see_sequence(void *self, const struct sequence_report *r, struct err *err) {
    struct seen *s = self;
    (void)err;
    assert_int_equal(r->n_predicted, r->sequence->n_tok - 1);
    assert_true(isnan(r->nll[0]));
    size_t n_argmax = 0;
    for (size_t t = 0; t < r->sequence->n_tok; t++)
        n_argmax += r->is_argmax[t];
    assert_true(r->n_argmax == n_argmax && n_argmax <= r->n_predicted && r->is_argmax[0] == 0);
    s->index[s->n] = r->sequence->index;
    s->nll_sum[r->sequence->index] = r->nll_sum;
    s->n++;
    return OK;
}

static int see_batch(void *self, uint64_t batch, struct err *err) {
    struct seen *s = self;
    (void)batch, (void)err;
    s->n_batches++;
    s->stop = s->stop_at_first;
    return OK;
}

static bool second_done(void *self, uint64_t batch) {
    (void)self;
    return batch == 1;
}

static int run_listed(const struct fixture *f, struct run_options options, struct seen *seen) {
    struct plan plan = {ops_cpu(), "spkv", NAN, 16, 2, false, false};
    struct listed listed = {f, 0};
    struct source source = {&listed, listed_next};
    struct observer observer = {.self = seen, .on_gates = see_gates, .on_sequence = see_sequence, .on_batch = see_batch};
    struct run_totals totals;
    struct device *dev;
    struct model *model;
    struct err err = {0};
    struct policy *policy = make_policy(f, &plan);
    options.policy = policy;
    options.chunk = 16;
    options.max_len = MAX_LEN;
    options.stop = &seen->stop;
    must(plan.ops->open(&(struct device_options){.n_threads = 2}, &dev, &err), &err);
    must(model_load(f->model_case.checkpoint, plan.ops, dev, &model, &err), &err);
    int rc = run_source(model, &source, &observer, &options, &totals, &err);
    assert_int_equal(totals.n_sequences, seen->n);
    model_free(model);
    plan.ops->close(dev);
    policy_free(policy);
    return rc;
}

static void test_batch_plan(void **state) {
    struct seen one = {0}, three = {0}, limited = {0}, stopped = {.stop_at_first = true}, resumed = {0},
                shard[2] = {{0}, {0}};
    assert_int_equal(run_listed(*state, (struct run_options){.batch = 1, .n_shards = 1}, &one), OK);
    assert_int_equal(run_listed(*state, (struct run_options){.batch = 3, .n_shards = 1}, &three), OK);
    assert_int_equal(one.n, N_LISTED);
    assert_int_equal(three.n, N_LISTED);
    assert_int_equal(three.n_batches, 3);
    for (int i = 0; i < N_LISTED; i++) {
        assert_int_equal(three.index[i], i);
        assert_int_equal(one.n_open[i], three.n_open[i]);
        assert_true(fabs(one.nll_sum[i] - three.nll_sum[i]) < 1e-5 * 100);
    }
    assert_int_equal(run_listed(*state, (struct run_options){.batch = 3, .n_shards = 1, .limit = 4}, &limited), OK);
    assert_int_equal(limited.n, 4);
    assert_int_equal(run_listed(*state, (struct run_options){.batch = 3, .n_shards = 1}, &stopped), ERR_INCOMPLETE);
    assert_int_equal(stopped.n, 3);
    assert_int_equal(
        run_listed(*state, (struct run_options){.batch = 3, .n_shards = 1, .batch_done = second_done}, &resumed), OK);
    assert_int_equal(resumed.n, 4);
    assert_int_equal(resumed.index[3], 6);
    for (int i = 0; i < 2; i++)
        assert_int_equal(run_listed(*state, (struct run_options){.batch = 2, .shard = i, .n_shards = 2}, &shard[i]), OK);
    assert_int_equal(shard[0].n, 4); /* batches 0 and 2 of four */
    assert_int_equal(shard[1].n, 3);
    assert_int_equal(shard[1].index[0], 2);
    /* Equal steps give equal bits: whole batches are what shards and resumed runs leave out. */
    assert_true(resumed.nll_sum[6] == three.nll_sum[6]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_chunk_batch_threads_backend), cmocka_unit_test(test_equal_settings_equal_bits),
        cmocka_unit_test(test_threshold_limits), cmocka_unit_test(test_dense_prefill), cmocka_unit_test(test_random_density),
        cmocka_unit_test(test_argmax), cmocka_unit_test(test_fork), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_batch_plan),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
