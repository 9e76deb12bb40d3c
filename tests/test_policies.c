/* test_policies.c - write-time policies and the oracle against a plain statement of each in PyTorch (tests/data/policies,
 * made by scripts/reference/make_policies.py): scores, gates, kept sets, losses, and the bytes that follow from them. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "analyze/head_pattern.h"
#include "engine/run.h"
#include "engine/session.h"
#include "tests/model_case.h"

#define FOLDER "tests/data/policies/"
#define DUO "duo:window=8,sinks=0,file=" FOLDER "duo"

static const char *const cases[] = {"llama-gqa", "qwen3", "gemma3"};
enum { N_CASES = sizeof cases / sizeof *cases };

/* A model on a backend, and what PyTorch computed for it. */
struct fixture {
    const struct ops *ops;
    int chunk, batch;
    struct model_case model_case;
    struct device *dev;
    struct model *model;
    json_t *specs;
    struct safetensors expected;
};

static void must(int rc, const struct err *err) {
    if (rc != OK)
        fail_msg("%s: %s", err->where, err->message);
}

static void open_case(struct fixture *f, const char *name) {
    char path[256];
    struct err err = {0};
    model_case_open(name, &f->model_case);
    must(f->ops->open(&(struct device_options){.n_threads = 1, .dtype = DTYPE_F32}, &f->dev, &err), &err);
    must(model_load(f->model_case.checkpoint, f->ops, f->dev, &f->model, &err), &err);
    snprintf(path, sizeof path, FOLDER "%s.json", name);
    f->specs = json_load_file(path, 0, NULL);
    assert_non_null(f->specs);
    snprintf(path, sizeof path, FOLDER "%s.safetensors", name);
    must(safetensors_open(path, &f->expected, &err), &err);
}

static void close_case(struct fixture *f) {
    safetensors_close(&f->expected);
    json_decref(f->specs);
    model_free(f->model);
    f->ops->close(f->dev);
    model_case_close(&f->model_case);
}

static int load_pattern(void *self, const char *path, struct policy_pattern *out, struct err *err) {
    struct head_pattern pattern;
    int rc = head_pattern_read(path, HEAD_PATTERN_DUO_ATTENTION, 0, &pattern, err);
    (void)self;
    *out = (struct policy_pattern){.value = pattern.value, .window = (int)pattern.window, .sinks = (int)pattern.sinks};
    return rc;
}

static int make_policy(const struct fixture *f, const char *spec, struct policy **out, struct err *err) {
    struct policy_request request = {.model = f->model->config, .model_dir = f->model_case.dir, .sinks = -1,
                                     .threshold = (double)NAN, .load_pattern = load_pattern};
    return policy_create(spec, &request, out, err);
}

/* --- a run over the stored sequences, all but the first -------------------------------------------------------------- */

struct reading {
    const struct model_case *model_case;
    int next;
};

static int next_sequence(void *self, struct sequence *out, int *end, struct err *err) {
    struct reading *r = self;
    (void)err;
    *end = r->next == r->model_case->n_sequences;
    if (*end)
        return OK;
    const struct case_sequence *s = &r->model_case->sequences[r->next];
    *out = (struct sequence){.index = (uint64_t)r->next - 1, .tokens = s->tokens, .n_tok = (size_t)s->n_tok};
    r->next++;
    return OK;
}

struct watch {
    const struct fixture *f;
    const struct policy *policy;
    const char *key;
    size_t bytes; /* used, over all sequences */
};

static const struct tensor *expected(const struct watch *w, const struct sequence *s, const char *what) {
    char name[128];
    snprintf(name, sizeof name, "seq%d.%s.%s", (int)s->index + 1, w->key, what);
    const struct tensor *t = safetensors_find(&w->f->expected, name);
    if (!t)
        fail_msg("%s is not stored", name);
    return t;
}

static int check_gates(void *self, const struct gate_report *g, struct err *err) {
    const struct watch *w = self;
    const struct tensor *u = expected(w, g->sequence, "utility"), *z = expected(w, g->sequence, "open");
    size_t kv = (size_t)g->n_kv_heads, layers = (size_t)g->n_layers;
    (void)err;
    assert_non_null(g->utility);
    for (size_t i = 0; i < u->n_items; i++) {
        size_t layer = i / kv % layers, from = layer * g->layer_stride + i / kv / layers * kv + i % kv;
        if (!g->gated[layer])
            continue;
        /* Scores behind layers of f32 arithmetic in another order: the margin of the threshold is 2e-5 of the largest. */
        double want = expected_at(u, i), got = (double)g->utility[from], tolerance = 1e-5 * (1 + fabs(want));
        if (!(fabs(got - want) <= tolerance) || (double)g->open[from] != expected_at(z, i))
            fail_msg("%s, %s, %s, chunk %d: score %zu is %.9g (gate %d), expected %.9g (%g)", w->f->ops->name,
                     w->f->model_case.dir, w->key, w->f->chunk, i, got, g->open[from], want, expected_at(z, i));
    }
    return OK;
}

/* Pairs that a lane holds after n_tok tokens: its ring, sinks that left it, and what is kept. */
static size_t pairs_held(const struct policy *policy, const struct model_config *config, size_t lane, size_t n_tok,
                         size_t n_kept) {
    size_t window = (size_t)policy->window[lane], sinks = (size_t)policy->sinks;
    bool sliding = config->layers[lane / (size_t)config->n_kv_heads].sliding_window > 0;
    size_t left = n_tok > window ? n_tok - window : 0;
    return (n_tok < window ? n_tok : window) + (sliding ? 0 : left < sinks ? left : sinks) + n_kept;
}

static int check_sequence(void *self, const struct sequence_report *r, struct err *err) {
    struct watch *w = self;
    const struct model_config *config = w->f->model->config;
    const struct tensor *kept = expected(w, r->sequence, "kept"), *nll = expected(w, r->sequence, "nll");
    size_t lanes = (size_t)config->n_layers * (size_t)config->n_kv_heads, n = r->sequence->n_tok, pairs = 0;
    (void)err;
    for (size_t lane = 0; lane < lanes; lane++) {
        size_t want = 0;
        for (size_t t = 0; t < n; t++)
            want += expected_at(kept, t * lanes + lane) != 0;
        if (r->n_kept[lane] != want)
            fail_msg("%s, %s, %s: head %zu keeps %u pairs, expected %zu", w->f->ops->name, w->f->model_case.dir, w->key,
                     lane, r->n_kept[lane], want);
        pairs += pairs_held(w->policy, config, lane, n, want);
    }
    assert_int_equal(r->cache_bytes_used, pairs * 2 * (size_t)config->head_dim * sizeof(float));
    w->bytes += r->cache_bytes_used;
    for (size_t t = 1; t < n; t++)
        if (!(fabs((double)r->nll[t] - expected_at(nll, t)) <= 1e-4)) /* as in test_model.c */
            fail_msg("%s, %s, %s: loss %zu is %.9g, expected %.9g", w->f->ops->name, w->f->model_case.dir, w->key, t,
                     (double)r->nll[t], expected_at(nll, t));
    return OK;
}

static void run_policy(const struct fixture *f, const char *key, const char *spec) {
    struct reading reading = {&f->model_case, 1};
    struct source source = {&reading, next_sequence};
    struct policy *policy;
    struct run_totals totals;
    struct err err = {0};
    must(make_policy(f, spec, &policy, &err), &err);
    struct watch watch = {.f = f, .policy = policy, .key = key};
    struct observer observer = {.self = &watch, .on_gates = check_gates, .on_sequence = check_sequence};
    struct run_options options = {.policy = policy, .batch = f->batch, .chunk = f->chunk, .max_len = CASE_MAX_TOKENS / 4,
                                  .n_shards = 1};
    must(run_source(f->model, &source, &observer, &options, &totals, &err), &err);
    assert_int_equal(totals.n_sequences, f->model_case.n_sequences - 1);
    policy_free(policy);
}

static void test_kept_sets(void **state) {
    struct fixture *f = *state;
    const char *key;
    json_t *spec;
    for (int i = 0; i < N_CASES; i++) {
        open_case(f, cases[i]);
        json_object_foreach(f->specs, key, spec)
            run_policy(f, key, json_string_value(spec));
        close_case(f);
    }
}

/* --- budgets ---------------------------------------------------------------------------------------------------------- */

static int add_bytes(void *self, const struct sequence_report *r, struct err *err) {
    (void)err;
    *(size_t *)self += r->cache_bytes_used;
    return OK;
}

static size_t bytes_of(const struct fixture *f, const char *spec) {
    struct reading reading = {&f->model_case, 1};
    struct source source = {&reading, next_sequence};
    struct policy *policy;
    struct run_totals totals;
    struct err err = {0};
    size_t bytes = 0;
    must(make_policy(f, spec, &policy, &err), &err);
    struct observer observer = {.self = &bytes, .on_sequence = add_bytes};
    struct run_options options = {.policy = policy, .batch = 2, .chunk = 32, .max_len = CASE_MAX_TOKENS / 4, .n_shards = 1};
    must(run_source(f->model, &source, &observer, &options, &totals, &err), &err);
    policy_free(policy);
    return bytes;
}

/* A tighter budget is less memory, down to the window's and up to full attention's. */
static void test_memory_follows_budget(void **state) {
    static const char *const ladders[][5] = {
        {"keynorm:window=8,threshold=0", "keynorm:window=8,threshold=-4.2", "keynorm:window=8,threshold=-5",
         "keynorm:window=8,threshold=-1e30"},
        {"oracle:window=8,threshold=1.5", "oracle:window=8,threshold=0.4", "oracle:window=8,threshold=0.1",
         "oracle:window=8,threshold=0"},
        {"gates:window=8,file=" FOLDER "kvzap-mlp,threshold=1e30", "gates:window=8,file=" FOLDER "kvzap-mlp,threshold=-1",
         "gates:window=8,file=" FOLDER "kvzap-mlp,threshold=-3", "gates:window=8,file=" FOLDER "kvzap-mlp,threshold=-1e30"},
        {DUO ",heads-global=0", DUO ",heads-global=0.3", DUO ",heads-global=0.7", DUO ",heads-global=1"},
    };
    struct fixture *f = *state;
    open_case(f, "llama-gqa");
    size_t window = bytes_of(f, "window:window=8"), full = bytes_of(f, "full:window=8");
    assert_true(window < full);
    for (size_t i = 0; i < sizeof ladders / sizeof *ladders; i++) {
        size_t before = bytes_of(f, ladders[i][0]);
        assert_int_equal(before, window);
        for (int k = 1; k < 4; k++) {
            size_t bytes = bytes_of(f, ladders[i][k]);
            if (bytes <= before)
                fail_msg("%s holds %zu bytes, the tighter %s %zu", ladders[i][k], bytes, ladders[i][k - 1], before);
            before = bytes;
        }
        assert_int_equal(before, full);
    }
    close_case(f);
}

/* --- refusals --------------------------------------------------------------------------------------------------------- */

static void test_refusals(void **state) {
    static const struct {
        const char *spec;
        int code;
        const char *message;
    } list[] = {
        {"keynorm", ERR_USAGE, "needs a threshold"},
        {"oracle", ERR_USAGE, "needs a threshold"},
        {"oracle:threshold=0.1,score=median", ERR_USAGE, "neither max nor mean"},
        {"oracle:threshold=0.1,value-norm=2", ERR_USAGE, "value-norm=2"},
        {"gates", ERR_USAGE, "gates:file=DIR"},
        {"gates:file=" FOLDER "kvzap-mlp", ERR_USAGE, "needs a threshold"},
        {"gates:file=" FOLDER "duo,threshold=1", ERR_INPUT, "n_modules"},
        {"gates:file=tests,threshold=1", ERR_INPUT, "no gates here"},
        {"duo", ERR_USAGE, "duo:file="},
        {"duo:file=" FOLDER "duo,heads-global=0.5,threshold=0.5", ERR_USAGE, "exclude each other"},
        {"duo:file=" FOLDER "duo,heads-global=1.5", ERR_USAGE, "heads-global=1.5"},
        {"duo:file=tests/nothing", ERR_IO, "nothing"},
        {"keynorm:threshold=0,rate=1", ERR_USAGE, "no parameter \"rate\""},
    };
    struct fixture *f = *state;
    open_case(f, "llama-gqa");
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct policy *policy;
        struct err err = {0};
        int rc = make_policy(f, list[i].spec, &policy, &err);
        if (rc == OK && (rc = policy_check(policy, &err)) != OK) { /* policies whose knob is still to be set */
            policy_free(policy);
            policy = NULL;
        }
        if (rc != list[i].code || (!strstr(err.message, list[i].message) && !strstr(err.where, list[i].message)))
            fail_msg("%s: %d, %s: %s", list[i].spec, rc, err.where, err.message);
        assert_null(policy);
    }
    close_case(f);
    open_case(f, "qwen3"); /* gates of another model */
    struct policy *policy;
    struct err err = {0};
    assert_int_equal(make_policy(f, "gates:threshold=0,file=" FOLDER "kvzap-linear", &policy, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "another model"));
    err = (struct err){0};
    assert_int_equal(make_policy(f, "gates:file=" FOLDER "gates-heads", &policy, &err), ERR_INPUT);
    close_case(f);
}

/* No session without the scores that the policy needs. */
static void test_oracle_has_no_future(void **state) {
    struct fixture *f = *state;
    struct policy *policy;
    struct session *session;
    struct err err = {0};
    open_case(f, "llama-gqa");
    must(make_policy(f, "oracle:threshold=0.1", &policy, &err), &err);
    struct session_options options = {.n_slots = 1, .max_len = 8, .max_rows = 8, .policy = policy};
    assert_int_equal(session_create(f->model, &options, &session, &err), ERR_USAGE);
    assert_non_null(strstr(err.message, "knows the future"));
    policy_free(policy);
    close_case(f);
}

int main(void) {
    struct fixture ref = {.ops = ops_ref(), .chunk = 97, .batch = 2}, guard = {.ops = ops_guard(), .chunk = 40, .batch = 1},
                   whole = {.ops = ops_cpu(), .chunk = 128, .batch = 2}, pieces = {.ops = ops_cpu(), .chunk = 7, .batch = 1},
                   tokens = {.ops = ops_cpu(), .chunk = 1, .batch = 2};
    const struct CMUnitTest tests[] = {
        {"kept sets, reference", test_kept_sets, NULL, NULL, &ref},
        {"kept sets, guard", test_kept_sets, NULL, NULL, &guard},
        {"kept sets, cpu", test_kept_sets, NULL, NULL, &whole},
        {"kept sets, cpu, chunks of 7", test_kept_sets, NULL, NULL, &pieces},
        {"kept sets, cpu, token by token", test_kept_sets, NULL, NULL, &tokens},
        {"memory follows the budget", test_memory_follows_budget, NULL, NULL, &whole},
        {"refusals", test_refusals, NULL, NULL, &whole},
        {"the oracle has no future", test_oracle_has_no_future, NULL, NULL, &whole},
    };
    return _cmocka_run_group_tests("policies", tests, sizeof tests / sizeof *tests, NULL, NULL);
}
