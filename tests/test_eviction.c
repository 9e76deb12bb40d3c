/* test_eviction.c - policies that evict: kept sets against plain statements of the methods (tests/data/evictions.json, made
 * by scripts/reference/make_evictions.py), the same on every backend, in any steps and batches; budgets, bytes by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "engine/run.h"
#include "engine/session.h"
#include "tests/backends.h"
#include "tests/model_case.h"
#include "tests/must.h"

enum { MAX_LEN = 250, MAX_LANES = 64 };

/* A model on a backend under one policy. */
struct engine {
    const struct ops *ops;
    struct device *dev;
    struct model *model;
    struct policy *policy;
    struct session *session;
};

static struct policy *make_policy(const struct model_case *c, const char *spec, int window, int sinks) {
    struct policy_request request = {
        .model = checkpoint_config(c->checkpoint), .window = window, .sinks = sinks, .threshold = (double)NAN};
    struct policy *policy;
    struct err err = {0};
    must(policy_create(spec, &request, &policy, &err), &err);
    return policy;
}

static void engine_open(struct engine *e, const struct model_case *c, const struct ops *ops) {
    struct err err = {0};
    *e = (struct engine){.ops = ops};
    must(ops->open(&(struct device_options){.n_threads = 1}, &e->dev, &err), &err);
    must(model_load(c->checkpoint, ops, e->dev, &e->model, &err), &err);
}

static void engine_policy(struct engine *e, const struct model_case *c, const char *spec, int window, int sinks,
                          int n_slots) {
    struct err err = {0};
    session_free(e->session);
    policy_free(e->policy);
    e->policy = make_policy(c, spec, window, sinks);
    struct session_options options = {
        .n_slots = n_slots, .max_len = MAX_LEN, .max_rows = (size_t)n_slots * MAX_LEN, .policy = e->policy};
    must(session_create(e->model, &options, &e->session, &err), &err);
    for (int i = 0; i < n_slots; i++)
        session_reset(e->session, i, (uint64_t)i);
}

static void engine_close(struct engine *e) {
    session_free(e->session);
    policy_free(e->policy);
    model_free(e->model);
    e->ops->close(e->dev);
}

/* ---- kept sets ----------------------------------------------------------------------------------------------------- */

/* The stored positions of one head, as text: what a failure prints. */
static void print_positions(char *out, size_t cap, const int32_t *pos, int n) {
    int len = 0;
    out[0] = 0;
    for (int i = 0; i < n && len < (int)cap - 8; i++)
        len += snprintf(out + len, cap - (size_t)len, "%d ", pos[i]);
}

static void compare_store(struct session *s, json_t *store, const char *what) {
    struct err err = {0};
    size_t l, h, i;
    json_t *layer, *head, *item;
    must(kv_cache_check(session_cache(s), &err), &err);
    json_array_foreach(json_object_get(store, "positions"), l, layer)
        json_array_foreach(layer, h, head) {
            int32_t want[MAX_LEN], got[MAX_LEN];
            char texts[2][1024];
            int n;
            json_array_foreach(head, i, item)
                want[i] = (int32_t)json_integer_value(item);
            must(kv_cache_read_positions(session_cache(s), 0, (int)l, (int)h, got, &n, &err), &err);
            if (n == (int)json_array_size(head) && memcmp(got, want, (size_t)n * sizeof *got) == 0)
                continue;
            print_positions(texts[0], sizeof texts[0], got, n);
            print_positions(texts[1], sizeof texts[1], want, (int)json_array_size(head));
            fail_msg("%s after %d tokens, layer %zu, head %zu:\n  got      %s\n  expected %s", what, session_length(s, 0), l,
                     h, texts[0], texts[1]);
        }
}

/* Feeds a text in steps of at most `step` tokens, stopping where a store is known. */
static void check_case(struct engine *e, const struct case_sequence *text, json_t *stores, size_t step, const char *what) {
    struct err err = {0};
    size_t i;
    json_t *store;
    session_reset(e->session, 0, 0);
    json_array_foreach(stores, i, store) {
        size_t fed = (size_t)session_length(e->session, 0);
        size_t n = (size_t)json_integer_value(json_object_get(store, "n_tok")) - fed;
        must(session_prefill(e->session, 0, text->tokens + fed, n, step, &err), &err);
        compare_store(e->session, store, what);
    }
}

static void check_model(json_t *expected, const struct ops *ops, bool all_steps) {
    static const size_t steps[] = {512, 1, 6};
    struct model_case c;
    struct engine e;
    size_t i;
    json_t *item;
    const char *model = json_string_value(json_object_get(expected, "model"));
    int window = (int)json_integer_value(json_object_get(expected, "window"));
    int sinks = (int)json_integer_value(json_object_get(expected, "sinks"));
    model_case_open(model, &c);
    engine_open(&e, &c, ops);
    json_array_foreach(json_object_get(expected, "cases"), i, item) {
        if (i % 8 && !backend_in_full(ops)) /* each way of scoring is among the rest */
            continue;
        const char *spec = json_string_value(json_object_get(item, "policy"));
        const struct case_sequence *text = &c.sequences[json_integer_value(json_object_get(expected, "sequence"))];
        engine_policy(&e, &c, spec, window, sinks, 1);
        for (size_t j = 0; j < (all_steps && backend_in_full(ops) ? 3 : 1); j++) {
            char what[256];
            snprintf(what, sizeof what, "%s, %s in steps of %zu, %s", model, ops->name, steps[j], spec);
            check_case(&e, text, json_object_get(item, "stores"), steps[j], what);
        }
    }
    engine_close(&e);
    model_case_close(&c);
}

static void test_kept_sets(void **state) {
    (void)state;
    const struct ops *list[MAX_BACKENDS];
    int n = backends_under_test(list);
    struct err err = {0};
    json_t *all, *expected;
    size_t i, n_cases = 0;
    must(json_read_object("tests/data/evictions.json", 1 << 24, &all, &err), &err);
    json_array_foreach(json_object_get(all, "models"), i, expected) {
        n_cases += json_array_size(json_object_get(expected, "cases"));
        check_model(expected, ops_ref(), false);
        for (int b = 0; b < n; b++) /* guard is the reference, slowly; the batches below run on it */
            if (strcmp(list[b]->name, "guard") && (backend_in_full(list[b]) || i == 0))
                check_model(expected, list[b], i == 0);
    }
    assert_true(n_cases >= 20);
    json_decref(all);
}

/* ---- batches, reuse ------------------------------------------------------------------------------------------------ */

enum { N_SEQ = 3 };

static const int lengths[N_SEQ] = {97, 40, 75};

/* Everything that a sequence leaves in a slot. */
struct remains {
    int n[MAX_LANES];
    int32_t pos[MAX_LANES][MAX_LEN];
    uint64_t visible[MAX_LANES];
    uint32_t n_kept[MAX_LANES];
    size_t used_bytes;
};

static void read_remains(struct session *s, const struct model_config *c, int slot, struct remains *out) {
    struct err err = {0};
    memset(out, 0, sizeof *out);
    struct kv_counts counts = {.n_kept = out->n_kept, .visible_pairs = out->visible};
    must(kv_cache_check(session_cache(s), &err), &err);
    must(kv_cache_read_counts(session_cache(s), slot, &counts, &err), &err);
    out->used_bytes = counts.used_bytes;
    for (int l = 0; l < c->n_layers; l++)
        for (int h = 0; h < c->n_kv_heads; h++) {
            int lane = l * c->n_kv_heads + h;
            must(kv_cache_read_positions(session_cache(s), slot, l, h, out->pos[lane], &out->n[lane], &err), &err);
        }
}

/* Sequence i, which begins at token i of the text, alone. */
static void run_alone(struct engine *e, const struct model_case *c, const int32_t *text, int i, struct remains *out) {
    struct err err = {0};
    session_reset(e->session, 0, 0);
    must(session_prefill(e->session, 0, text + i, (size_t)lengths[i], 64, &err), &err);
    read_remains(e->session, checkpoint_config(c->checkpoint), 0, out);
}

/* All sequences at once, slots in reverse order, a chunk of each that is not finished. */
static void run_together(struct engine *e, const int32_t *text) {
    struct err err = {0};
    for (bool more = true; more;) {
        int slots[N_SEQ], n_tok[N_SEQ], n = 0;
        const int32_t *tokens[N_SEQ];
        for (int i = 0; i < N_SEQ; i++) {
            int slot = N_SEQ - 1 - i, fed = session_length(e->session, slot), left = lengths[i] - fed;
            if (left == 0)
                continue;
            slots[n] = slot;
            tokens[n] = text + i + fed;
            n_tok[n++] = policy_step(e->policy, fed, left < 11 ? left : 11);
        }
        if ((more = n > 0))
            must(session_feed(e->session, &(struct feed){n, slots, tokens, n_tok}, &err), &err);
    }
}

static void test_batches_and_reuse(void **state) {
    static const char *const specs[] = {"h2o:budget=0.3,chunk=8", "tova:budget=0.3,allocation=layer", "snapkv:budget=0.2",
                                        "expected-attention:constant=30,allocation=model"};
    static struct remains alone[N_SEQ], again, together;
    const struct model_case *c = *state;
    const struct ops *backends[] = {ops_cpu(), ops_guard()};
    const int32_t *text = c->sequences[c->n_sequences - 1].tokens;
    for (size_t b = 0; b < 2; b++)
        for (size_t p = 0; p < sizeof specs / sizeof *specs; p++) {
            struct engine e;
            engine_open(&e, c, backends[b]);
            engine_policy(&e, c, specs[p], 12, 2, 1);
            for (int i = 0; i < N_SEQ; i++)
                run_alone(&e, c, text, i, &alone[i]);
            run_alone(&e, c, text, 0, &again); /* after others were in its slot */
            assert_memory_equal(&again, &alone[0], sizeof again);
            engine_policy(&e, c, specs[p], 12, 2, N_SEQ);
            run_together(&e, text);
            for (int i = 0; i < N_SEQ; i++) {
                read_remains(e.session, checkpoint_config(c->checkpoint), N_SEQ - 1 - i, &together);
                assert_memory_equal(&together, &alone[i], sizeof together);
            }
            engine_close(&e);
        }
}

/* ---- bytes --------------------------------------------------------------------------------------------------------- */

static int pages(int n) {
    return (n + KV_PAGE_SLOTS - 1) / KV_PAGE_SLOTS;
}

/* Pairs of a head after `n_tok` tokens, and the pages it held at most, before the last eviction too. */
struct by_hand {
    int pairs, pages_peak, pages;
};

static struct by_hand count_by_hand(const struct policy *p, int n_tok, int window, int sinks) {
    int chunk = p->evict.chunk, store = 0, ring = n_tok < window ? n_tok : window;
    struct by_hand out = {0};
    for (int t = 1; t <= n_tok; t++) {
        int left = t - window - sinks, budget = policy_budget(p, t);
        store += t > window;
        int held = pages(t < window ? t : window) + pages(store);
        out.pages_peak = held > out.pages_peak ? held : out.pages_peak;
        if (t % chunk == 0 && left > 0 && store > sinks + budget)
            store = sinks + budget;
    }
    out.pairs = ring + store;
    out.pages = pages(ring) + pages(store);
    return out;
}

static void test_bytes(void **state) {
    static const char *const specs[] = {"h2o:budget=1",         "h2o:budget=0.5",  "h2o:budget=0.5,chunk=70",
                                        "h2o:budget=0.2",       "h2o:constant=30", "h2o:budget=0",
                                        "tova:constant=20,chunk=1"};
    const struct model_case *c = *state;
    const struct model_config *config = checkpoint_config(c->checkpoint);
    const int window = 16, sinks = 2, n_tok = 230, lanes = config->n_layers * config->n_kv_heads;
    size_t pair = 2 * (size_t)config->head_dim * sizeof(float), used[7], peak[7];
    int32_t text[MAX_LEN];
    struct engine e;
    struct err err = {0};
    for (int t = 0; t < n_tok; t++)
        text[t] = (t * 37 + t * t) % config->vocab_size;
    engine_open(&e, c, ops_cpu());
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct kv_counts counts = {0};
        engine_policy(&e, c, specs[i], window, sinks, 1);
        must(session_prefill(e.session, 0, text, (size_t)n_tok, 512, &err), &err);
        must(kv_cache_read_counts(session_cache(e.session), 0, &counts, &err), &err);
        struct by_hand want = count_by_hand(e.policy, n_tok, window, sinks);
        size_t page = (size_t)KV_PAGE_SLOTS * pair;
        assert_int_equal(counts.used_bytes, (size_t)(want.pairs * lanes) * pair);
        assert_int_equal(counts.allocated_bytes, (size_t)(want.pages * lanes) * page);
        assert_int_equal(kv_cache_peak_bytes(session_cache(e.session)), (size_t)(want.pages_peak * lanes) * page);
        assert_int_equal(counts.full_bytes, (size_t)(n_tok * lanes) * pair);
        used[i] = counts.used_bytes;
        peak[i] = kv_cache_peak_bytes(session_cache(e.session));
    }
    assert_int_equal(used[0], (size_t)(n_tok * lanes) * pair); /* nothing goes */
    assert_true(used[1] < used[0] && used[3] < used[1] && used[5] < used[3]);
    assert_true(peak[1] < peak[0] && peak[5] < peak[1]);
    engine_close(&e);
}

/* ---- budgets, steps, refusals -------------------------------------------------------------------------------------- */

static void test_budget(void **state) {
    struct policy *growing = make_policy(*state, "h2o:budget=0.29,chunk=40", 16, 4);
    struct policy *constant = make_policy(*state, "h2o:constant=50", 16, 4), *full = make_policy(*state, "full", 16, 4);
    assert_int_equal(policy_budget(growing, 20), 0);
    assert_int_equal(policy_budget(growing, 120), 29); /* 0.29 * 100 = 28.999999999999996 */
    assert_int_equal(policy_budget(growing, 121), 29);
    assert_int_equal(policy_budget(constant, 10), 0);
    assert_int_equal(policy_budget(constant, 33), 13);
    assert_int_equal(policy_budget(constant, 1000), 30);
    assert_int_equal(policy_step(growing, 0, 512), 40);
    assert_int_equal(policy_step(growing, 79, 512), 1);
    assert_int_equal(policy_step(growing, 79, 1), 1);
    assert_int_equal(policy_step(constant, 5, 512), 11); /* the window is the chunk */
    assert_int_equal(policy_step(full, 5, 512), 512);
    policy_free(growing);
    policy_free(constant);
    policy_free(full);
}

static void test_refusals(void **state) {
    static const char *const bad[][2] = {
        {"h2o:constant=19", "below window + sinks = 20"}, {"h2o:constant=30,budget=0.5", "give one"},
        {"h2o:budget=1.5", "budget=1.5"},                 {"tova:allocation=group", "head, layer or model"},
        {"snapkv:observe=40", "at most the chunk (16)"},  {"snapkv:pool=4", "pool is odd"},
        {"tova:observe=3", "no parameter \"observe\""},   {"h2o:chunk=0", "chunk=0"},
        {"h2o:constant=0", "constant=0"},                 {"h2o:budget=0.1,budget=0.2", "given twice"},
        {"expected-attention:skip=x", "skip=x"},
    };
    const struct model_case *c = *state;
    struct policy_request request = {
        .model = checkpoint_config(c->checkpoint), .window = 16, .sinks = 4, .threshold = (double)NAN};
    struct policy *policy;
    struct session *session;
    struct engine e;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err err = {0};
        assert_int_equal(policy_create(bad[i][0], &request, &policy, &err), ERR_USAGE);
        if (!strstr(err.message, bad[i][1]))
            fail_msg("%s: says \"%s\", expected \"%s\"", bad[i][0], err.message, bad[i][1]);
    }
    struct err err = {0};
    engine_open(&e, c, ops_cpu());
    engine_policy(&e, c, "h2o", 16, 4, 1);
    struct session_options options = {
        .n_slots = 1, .max_len = 64, .max_rows = 64, .policy = e.policy, .dense_prefill = true};
    assert_int_equal(session_create(e.model, &options, &session, &err), ERR_USAGE);
    assert_non_null(strstr(err.message, "chunk=N"));
    engine_close(&e);
}

static int setup(void **state) {
    static struct model_case c;
    model_case_open("llama-gqa", &c);
    *state = &c;
    return 0;
}

static int teardown(void **state) {
    model_case_close(*state);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept_sets),  cmocka_unit_test(test_batches_and_reuse), cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_budget),     cmocka_unit_test(test_refusals),
    };
    backends_print_skipped();
    return cmocka_run_group_tests(tests, setup, teardown);
}
