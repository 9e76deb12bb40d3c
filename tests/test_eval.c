/* Scores of texts: few-shot draws against Python's random, windows and truncation against plain statements, shared
 * beginnings against requests that are fed alone, and questions of every kind against lm_eval itself, whose scores of the
 * demo model scripts/reference/lm_eval_scores.py stored in tests/data/eval. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "datasets/row_file.h"
#include "datasets/shots.h"
#include "engine/continuation.h"
#include "engine/likelihood.h"
#include "engine/session.h"
#include "tests/model_case.h"

#define DATA "tests/data/eval/"
#define DEMO "datasets/demo/model"

static void must(int rc, const struct err *err) {
    if (rc != OK)
        fail_msg("%s: %s", err->where, err->message);
}

/* --- few-shot draws: random.Random(seed).sample(range(n), k), twice in a row, Python 3.11 --- */

struct draw_case {
    uint64_t seed;
    size_t n, k, first[10], second[10];
};

static const struct draw_case draws[] = {
    {1234ULL, 20, 3, {14, 3, 0}, {2, 18, 1}},
    {1234ULL, 1000, 5, {989, 796, 451, 119, 7}, {92, 932, 965, 961, 826}},
    {1234ULL, 40, 6, {28, 7, 0, 5, 2, 36}, {6, 22, 15, 1, 36, 35}},
    {1234ULL, 30, 8, {24, 14, 3, 0, 2, 18, 1, 21}, {22, 2, 3, 24, 11, 7, 0, 23}},
    {1099511627783ULL, 50, 10, {39, 47, 40, 36, 45, 30, 16, 49, 8, 33}, {24, 33, 46, 23, 25, 28, 44, 47, 14, 43}},
    {0ULL, 1, 1, {0}, {0}},
    {7ULL, 85, 6, {41, 19, 50, 6, 9, 68}, {12, 46, 74, 7, 64, 27}},
    {7ULL, 86, 6, {41, 19, 50, 83, 6, 9}, {68, 12, 46, 74, 7, 64}},
};

static void test_draws(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof draws / sizeof *draws; i++) {
        const struct draw_case *d = &draws[i];
        struct python_random random;
        struct err err = {0};
        size_t got[10];
        python_random_seed(&random, d->seed);
        must(python_random_sample(&random, d->n, d->k, got, &err), &err);
        assert_memory_equal(got, d->first, d->k * sizeof *got);
        must(python_random_sample(&random, d->n, d->k, got, &err), &err);
        assert_memory_equal(got, d->second, d->k * sizeof *got);
    }
}

/* --- samples of lm_eval: gold answers, and what stands between context and continuation --- */

struct sample_case {
    const char *line; /* ' stands for " */
    int gold;         /* -1: refused */
    size_t n_choices;
    const char *context, *continuation; /* of the gold choice, the latter with what stands before it */
    const char *text;                   /* whose length counts */
};

static const struct sample_case samples[] = {
    {"{'doc_id': 0, 'target': '1', 'arguments': {'gen_args_0': {'arg_0': 'q:', 'arg_1': ' no'}, 'gen_args_1': {"
     "'arg_0': 'q:', 'arg_1': ' yes'}}}", 1, 2, "q:", " yes", "yes"},
    {"{'doc_id': 0, 'target': 'B', 'arguments': [['q:', ' A'], ['q:', ' B']]}", 1, 2, "q:", " B", "B"},
    {"{'doc_id': 0, 'target': 0, 'arguments': [['q:', 'yes'], ['q:', ' no']]}", 0, 2, "q:", "yes", "yes"},
    {"{'doc_id': 0, 'target': 'it went.', 'arguments': [['a dog', ' it went.'], ['a cat', ' it went.']], 'doc': {"
     "'sentence': 'a _ it went.', 'option1': 'dog', 'option2': 'cat', 'answer': '2'}}", 1, 2, "a cat", " it went.", "a cat"},
    {"{'doc_id': 0, 'target': ' end', 'arguments': [['to the', ' end']]}", 0, 1, "to the", " end", "end"},
    {"{'doc_id': 0, 'target': '2', 'arguments': [['q:', ' A'], ['q:', ' B']]}", -1, 0, NULL, NULL, NULL},
    {"{'doc_id': 0, 'target': 'C', 'arguments': [['q:', ' A'], ['q:', ' B']]}", -1, 0, NULL, NULL, NULL},
    {"{'doc_id': 0, 'target': 'x', 'arguments': [['q:', {'until': []}]]}", -1, 0, NULL, NULL, NULL},
};

static void test_samples(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        const struct sample_case *c = &samples[i];
        struct choice_question q = {0};
        struct str continuation = {0};
        struct err err = {0};
        char line[512];
        json_t *row;
        snprintf(line, sizeof line, "%s", c->line);
        for (char *p = line; *p; p++)
            *p = *p == '\'' ? '"' : *p;
        must(row_parse(line, strlen(line), "f:7", &row, &err), &err);
        int rc = row_question(row_kind_named("lm-eval samples"), row, "f:7", &q, &err);
        assert_int_equal(rc, c->gold < 0 ? ERR_INPUT : OK);
        if (rc == OK) {
            choice_put_continuation(&q, q.gold, &continuation);
            assert_int_equal(q.gold, c->gold);
            assert_int_equal(q.n_choices, c->n_choices);
            assert_string_equal(choice_context(&q, q.gold), c->context);
            assert_string_equal(str_text(&continuation), c->continuation);
            assert_string_equal(choice_text(&q, q.gold), c->text);
        } else
            assert_string_equal(err.where, "f:7");
        str_free(&continuation);
        choice_question_free(&q);
        json_decref(row);
    }
}

/* --- windows --- */

/* The example of lm_eval's loglikelihood_rolling: ten tokens behind a prefix, windows of four. */
static void test_harness_windows(void **state) {
    (void)state;
    const struct token_span wanted[] = {{0, 5, 1, 0}, {4, 5, 1, 0}, {6, 5, 3, 0}, {0, 0, 0, 0}};
    for (size_t i = 0; i < 4; i++) {
        struct token_span got = rolling_window(11, 4, 0, i);
        assert_memory_equal(&got, &wanted[i], sizeof got);
    }
}

/* Every token but the prefix is predicted once, from as many tokens as the stride says. */
static void test_windows_cover(void **state) {
    (void)state;
    for (size_t n = 0; n < 40; n++)
        for (size_t length = 1; length <= 12; length++)
            for (size_t stride = 0; stride <= length; stride++) {
                size_t next = 1;
                struct token_span w;
                for (size_t i = 0; (w = rolling_window(n, length, stride, i)).n_tok; i++) {
                    assert_true(w.n_tok - 1 <= length && w.n_context >= 1 && w.n_context < w.n_tok);
                    assert_int_equal(w.first + w.n_context, next);
                    if (stride)
                        assert_int_equal(w.first, i * stride);
                    next = w.first + w.n_tok;
                }
                assert_int_equal(next, n ? n : 1);
            }
}

/* --- tokens of a pair --- */

struct text_world {
    struct checkpoint *checkpoint;
    struct tokenizer *tokenizer;
    struct device *dev;
    struct model *model;
};

static int open_demo(void **state) {
    static struct text_world w;
    struct err err = {0};
    must(checkpoint_open(DEMO, NULL, &w.checkpoint, &err), &err);
    must(tokenizer_open(DEMO "/tokenizer.json", &w.tokenizer, &err), &err);
    must(ops_cpu()->open(&(struct device_options){.n_threads = 1, .dtype = DTYPE_F32}, &w.dev, &err), &err);
    must(model_load(w.checkpoint, ops_cpu(), w.dev, &w.model, &err), &err);
    *state = &w;
    return 0;
}

static int close_demo(void **state) {
    struct text_world *w = *state;
    model_free(w->model);
    ops_cpu()->close(w->dev);
    tokenizer_free(w->tokenizer);
    checkpoint_close(w->checkpoint);
    return 0;
}

static struct text_encoder encoder_of(const struct text_world *w, size_t max_length) {
    struct text_encoder encoder;
    struct err err = {0};
    must(text_encoder_open(DEMO, w->tokenizer, w->model->config, BOS_AUTO, max_length, &encoder, &err), &err);
    return encoder;
}

/* Spaces move over, the left is cut, an empty context is the start token, which is not put twice. */
static void test_pairs(void **state) {
    const struct text_world *w = *state;
    struct text_encoder wide = encoder_of(w, 1000), narrow = encoder_of(w, 8);
    struct token_list a = {0}, b = {0};
    struct token_span of_a, of_b;
    struct err err = {0};
    must(encode_continuation(&wide, "The boy ran to \t", "the river and swam", &a, &of_a, &err), &err);
    must(encode_continuation(&wide, "The boy ran to", " \tthe river and swam", &b, &of_b, &err), &err);
    assert_memory_equal(&of_a, &of_b, sizeof of_a);
    assert_memory_equal(a.data, b.data, a.len * sizeof *a.data);
    assert_int_equal(a.data[0], w->model->config->bos_id);
    b.len = 0;
    must(encode_continuation(&narrow, "The boy ran to \t", "the river and swam", &b, &of_b, &err), &err);
    assert_int_equal(of_b.n_tok, 9);
    assert_int_equal(of_b.n_cut, of_a.n_tok - 9);
    assert_int_equal(of_b.n_tok - of_b.n_context, of_a.n_tok - of_a.n_context);
    assert_memory_equal(b.data, a.data + of_b.n_cut, 9 * sizeof *a.data);
    a.len = b.len = 0;
    must(encode_continuation(&wide, "", "The boy", &a, &of_a, &err), &err);
    must(encode_continuation(&wide, "", "<|bos|>The boy", &b, &of_b, &err), &err);
    assert_int_equal(of_a.n_context, 1);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len * sizeof *a.data);
    a.len = 0;
    assert_int_equal(encode_continuation(&wide, "The boy", "", &a, &of_a, &err), ERR_INPUT);
    err = (struct err){0};
    assert_int_equal(encode_continuation(&narrow, "a", " b c d e f g h i j k l m n o p", &a, &of_a, &err), ERR_INPUT);
    free(a.data);
    free(b.data);
    text_encoder_free(&wide);
    text_encoder_free(&narrow);
}

/* --- shared beginnings --- */

enum { N_GROUPS = 5, MAX_CHOICES = 4, MAX_TOK = 120, WINDOW = 9, SINKS = 2 };

struct group_case {
    size_t n, n_shared, n_tok[MAX_CHOICES], n_context[MAX_CHOICES];
};

/* A long beginning; answers of one token; contexts that differ at once; ends within what is shared; one request alone. */
static const struct group_case group_cases[N_GROUPS] = {
    {4, 60, {62, 64, 61, 80}, {60, 60, 60, 60}},
    {3, 40, {41, 41, 41}, {40, 40, 40}},
    {2, 0, {30, 25}, {20, 20}},
    {3, 33, {40, 34, 50}, {35, 30, 45}},
    {1, 0, {120}, {7}},
};

struct group_world {
    struct model_case model_case;
    int32_t tokens[N_GROUPS][MAX_CHOICES][MAX_TOK];
    struct score_request requests[N_GROUPS * MAX_CHOICES];
    struct score_group groups[N_GROUPS];
    size_t n;
};

static int open_groups(void **state) {
    static struct group_world w;
    w.n = 0;
    model_case_open("llama-gqa", &w.model_case);
    float vocab = (float)checkpoint_config(w.model_case.checkpoint)->vocab_size;
    for (uint32_t g = 0; g < N_GROUPS; g++) {
        w.groups[g] = (struct score_group){.requests = w.requests + w.n, .n = group_cases[g].n, .id = g};
        for (uint32_t c = 0; c < group_cases[g].n; c++) {
            for (uint32_t t = 0; t < MAX_TOK; t++) {
                uint64_t draw = t < group_cases[g].n_shared ? g : 100 + 10 * g + c; /* differs from n_shared on */
                w.tokens[g][c][t] = (int32_t)(rng_uniform(11, draw, 0, 0, t) * vocab);
            }
            w.requests[w.n++] = (struct score_request){.tokens = w.tokens[g][c], .n_tok = group_cases[g].n_tok[c],
                                                       .n_context = group_cases[g].n_context[c]};
        }
    }
    *state = &w;
    return 0;
}

static int close_groups(void **state) {
    struct group_world *w = *state;
    model_case_close(&w->model_case);
    return 0;
}

static struct policy *policy_of(const struct group_world *w, const char *spec) {
    struct policy_request request = {.model = checkpoint_config(w->model_case.checkpoint),
                                     .predictor = checkpoint_predictor(w->model_case.checkpoint), .window = WINDOW,
                                     .sinks = SINKS, .threshold = NAN, .seed = 5};
    struct policy *policy;
    struct err err = {0};
    must(policy_create(spec, &request, &policy, &err), &err);
    return policy;
}

/* One request in a session of its own: losses of all its tokens, and the pairs that its cache held and read. */
static struct score score_alone(const struct model *model, const struct policy *policy, const struct score_request *r,
                                uint64_t id) {
    struct session_options options = {.n_slots = 1, .max_len = MAX_TOK, .max_rows = MAX_TOK, .policy = policy};
    struct session *s;
    struct score out = {.is_greedy = true};
    struct err err = {0};
    float nll[MAX_TOK];
    uint8_t argmax[MAX_TOK];
    uint64_t visible[64];
    struct kv_counts counts = {.visible_pairs = visible};
    must(session_create(model, &options, &s, &err), &err);
    session_reset(s, 0, id);
    for (int at = 0, n; at < (int)r->n_tok - 1; at += n) { /* whole, or up to where an eviction policy drops pairs */
        const int32_t *piece = r->tokens + at;
        n = policy_step(policy, at, (int)r->n_tok - 1 - at);
        must(session_feed(s, &(struct feed){1, (int[]){0}, &piece, &n}, &err), &err);
        must(session_nll(s, piece + 1, nll + at, argmax + at, &err), &err);
    }
    for (size_t t = r->n_context; t < r->n_tok; t++) {
        out.log_likelihood -= (double)nll[t - 1];
        out.is_greedy &= argmax[t - 1];
        out.n_scored++;
        out.n_far += t - 1 >= WINDOW + SINKS;
    }
    must(kv_cache_read_counts(session_cache(s), 0, &counts, &err), &err);
    for (int i = 0; i < model->config->n_layers * model->config->n_kv_heads; i++)
        out.visible_pairs += visible[i];
    session_free(s);
    return out;
}

static void expect_groups(const struct group_world *w, const struct ops *ops, const char *spec, size_t batch, size_t chunk) {
    struct scoring_options options = {.policy = policy_of(w, spec), .batch = batch, .chunk = chunk};
    struct device *dev;
    struct model *model;
    struct scoring *scoring;
    struct score scores[N_GROUPS * MAX_CHOICES];
    struct err err = {0};
    must(ops->open(&(struct device_options){.n_threads = 1}, &dev, &err), &err);
    must(model_load(w->model_case.checkpoint, ops, dev, &model, &err), &err);
    must(scoring_create(model, &options, &scoring, &err), &err);
    must(scoring_run(scoring, w->groups, N_GROUPS, scores, &err), &err);
    for (size_t g = 0, i = 0; g < N_GROUPS; g++)
        for (size_t c = 0; c < w->groups[g].n; c++, i++) {
            struct score wanted = score_alone(model, options.policy, &w->requests[i], g);
            double off = fabs(scores[i].log_likelihood - wanted.log_likelihood);
            if (off > 1e-5 * (double)wanted.n_scored || scores[i].is_greedy != wanted.is_greedy) /* 1e-5 nat a token */
                fail_msg("%s, group %zu, choice %zu: %.7f in place of %.7f", spec, g, c, scores[i].log_likelihood,
                         wanted.log_likelihood);
            assert_int_equal(scores[i].n_scored, wanted.n_scored);
            assert_int_equal(scores[i].n_far, wanted.n_far);
            assert_int_equal(scores[i].visible_pairs, wanted.visible_pairs);
        }
    scoring_free(scoring);
    model_free(model);
    ops->close(dev);
    policy_free((struct policy *)(uintptr_t)options.policy);
}

static void test_groups(void **state) {
    static const char *const policies[] = {"full", "window", "random:density=0.4", "spkv",
                                           "h2o:budget=0.3,chunk=8", "expected-attention:budget=0.3,chunk=8"};
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        expect_groups(*state, ops_cpu(), policies[i], 1, 512);
        expect_groups(*state, ops_cpu(), policies[i], 3, 7);
        expect_groups(*state, ops_guard(), policies[i], 5, 16);
    }
}

/* A context that is read densely: its last row predicts as under full attention, and pruning acts behind it. */
static void test_dense_contexts(void **state) {
    const struct group_world *w = *state;
    struct policy *policies[] = {policy_of(w, "full"), policy_of(w, "window"), policy_of(w, "window")};
    struct device *dev;
    struct model *model;
    struct score scores[3][N_GROUPS * MAX_CHOICES];
    struct err err = {0};
    must(ops_cpu()->open(&(struct device_options){.n_threads = 1}, &dev, &err), &err);
    must(model_load(w->model_case.checkpoint, ops_cpu(), dev, &model, &err), &err);
    for (int i = 0; i < 3; i++) {
        struct scoring_options options = {.policy = policies[i], .batch = 3, .chunk = 512, .dense_prefill = i == 2};
        struct scoring *scoring;
        must(scoring_create(model, &options, &scoring, &err), &err);
        must(scoring_run(scoring, w->groups, N_GROUPS, scores[i], &err), &err);
        scoring_free(scoring);
        policy_free(policies[i]);
    }
    for (size_t i = 0; i < w->n; i++) {
        const struct score *full = &scores[0][i], *pruned = &scores[1][i], *dense = &scores[2][i];
        bool one = w->requests[i].n_tok - w->requests[i].n_context == 1, far = w->requests[i].n_context > WINDOW + SINKS;
        assert_int_equal(fabs(dense->log_likelihood - full->log_likelihood) < 1e-5, one); /* the context's last row alone */
        assert_int_equal(fabs(dense->log_likelihood - pruned->log_likelihood) < 1e-5, !far);
    }
    model_free(model);
    ops_cpu()->close(dev);
}

/* --- against lm_eval --- */

struct lm_case {
    const char *kind, *file;
    int64_t n_shots, max_length;
    json_t *items;
};

static struct lm_case read_case(const json_t *object) {
    struct lm_case c = {0};
    struct err err = {0};
    must(json_get_string(object, "kind", &c.kind, DATA, &err), &err);
    must(json_get_string(object, "file", &c.file, DATA, &err), &err);
    must(json_get_int(object, "shots", 0, 100, &c.n_shots, DATA, &err), &err);
    must(json_get_int(object, "max_length", 0, 10000, &c.max_length, DATA, &err), &err);
    must(json_get_array(object, "items", &c.items, DATA, &err), &err);
    return c;
}

static struct scoring *scoring_of(const struct text_world *w, struct policy **policy) {
    struct policy_request request = {.model = w->model->config, .threshold = NAN, .sinks = -1};
    struct scoring *scoring;
    struct err err = {0};
    must(policy_create("full", &request, policy, &err), &err);
    must(scoring_create(w->model, &(struct scoring_options){.policy = *policy, .batch = 2, .chunk = 512}, &scoring, &err),
         &err);
    return scoring;
}

static double score_of(const json_t *item, size_t i) {
    return json_number_value(json_array_get(json_object_get(item, "log_likelihood"), i));
}

static int flag_of(const json_t *item, const char *metric) {
    return (int)json_number_value(json_object_get(item, metric));
}

/* The requests of one question, its examples before it. */
static size_t encode_question(const struct text_encoder *encoder, const struct choice_question *q, const char *examples,
                              struct token_list *tokens, struct token_span *spans) {
    struct str context = {0}, continuation = {0};
    struct err err = {0};
    for (size_t i = 0; i < q->n_choices; i++) {
        str_clear(&context);
        str_clear(&continuation);
        str_printf(&context, "%s%s%s", str_text(&q->heading), examples, choice_context(q, i));
        choice_put_continuation(q, i, &continuation);
        must(encode_continuation(encoder, str_text(&context), str_text(&continuation), tokens, &spans[i], &err), &err);
    }
    str_free(&context);
    str_free(&continuation);
    return q->n_choices;
}

static void score_spans(struct scoring *scoring, const struct token_list *tokens, const struct token_span *spans, size_t n,
                        double *log_likelihood) {
    struct score_request requests[16];
    struct score scores[16];
    struct err err = {0};
    assert_true(n > 0 && n <= 16);
    for (size_t i = 0; i < n; i++)
        requests[i] = (struct score_request){.tokens = tokens->data + spans[i].first, .n_tok = spans[i].n_tok,
                                             .n_context = spans[i].n_context};
    must(scoring_run(scoring, &(struct score_group){.requests = requests, .n = n}, 1, scores, &err), &err);
    for (size_t i = 0; i < n; i++)
        log_likelihood[i] = scores[i].log_likelihood;
}

/* The bar of 1e-3 nat, which leaves room for long answers: sums of f32 losses of up to a few nat, each good to about
 * 1e-6. */
static void expect_question(const struct lm_case *c, size_t row, const struct choice_question *q,
                            const double *log_likelihood) {
    static const char *const metrics[] = {"acc", "acc_norm", "acc_bytes"};
    const json_t *item = json_array_get(c->items, row);
    assert_int_equal(json_array_size(json_object_get(item, "log_likelihood")), q->n_choices);
    for (size_t i = 0; i < q->n_choices; i++)
        if (!(fabs(log_likelihood[i] - score_of(item, i)) < 1e-3))
            fail_msg("%s, %d shots, row %zu, choice %zu: %.6f, lm_eval has %.6f", c->file, (int)c->n_shots, row, i,
                     log_likelihood[i], score_of(item, i));
    for (int unit = 0; unit < N_CHOICE_UNITS; unit++)
        if ((choice_best(q, log_likelihood, (enum choice_unit)unit) == q->gold) != flag_of(item, metrics[unit]))
            fail_msg("%s, %d shots, row %zu: %s differs", c->file, (int)c->n_shots, row, metrics[unit]);
}

static void expect_choices(const struct text_world *w, struct scoring *scoring, const struct lm_case *c,
                           const struct row_file *file) {
    const struct row_kind *kind = row_kind_named(c->kind);
    struct text_encoder encoder = encoder_of(w, (size_t)w->model->config->max_positions);
    struct shots shots = {.file = file, .kind = kind, .n = (size_t)c->n_shots, .exclude = true,
                          .first = strcmp(c->kind, "mmlu") == 0};
    struct choice_question q = {0};
    struct token_list tokens = {0};
    struct err err = {0};
    python_random_seed(&shots.random, 1234);
    for (size_t i = 0; i < file->n; i++) {
        struct str examples = {0};
        struct token_span spans[16];
        double log_likelihood[16];
        choice_question_clear(&q);
        tokens.len = 0;
        must(row_question(kind, file->rows[i], c->file, &q, &err), &err);
        if (shots.n)
            must(shots_put(&shots, file->rows[i], &examples, &err), &err);
        score_spans(scoring, &tokens, spans, encode_question(&encoder, &q, str_text(&examples), &tokens, spans),
                    log_likelihood);
        expect_question(c, i, &q, log_likelihood);
        str_free(&examples);
    }
    choice_question_free(&q);
    text_encoder_free(&encoder);
    free(tokens.data);
}

/* Sums over the windows of a text, within 1e-4 of lm_eval's. */
static void expect_rolling(const struct text_world *w, struct scoring *scoring, const struct lm_case *c,
                           const struct row_file *file) {
    struct text_encoder encoder = encoder_of(w, (size_t)c->max_length);
    struct token_list tokens = {0};
    struct err err = {0};
    for (size_t row = 0; row < file->n; row++) {
        const char *text = json_string_value(json_object_get(file->rows[row], "text"));
        size_t n_special;
        double sum = 0, one, wanted = score_of(json_array_get(c->items, row), 0);
        struct token_span span;
        must(mem_grow(&tokens.data, &tokens.cap, 1, sizeof *tokens.data, "tokens", &err), &err);
        tokens.data[0] = encoder.prefix_id;
        tokens.len = 1;
        must(encode_text(&encoder, text, strlen(text), &tokens, &n_special, &err), &err);
        for (size_t i = 0; (span = rolling_window(tokens.len, encoder.max_length, 0, i)).n_tok; i++) {
            score_spans(scoring, &tokens, &span, 1, &one);
            sum += one;
        }
        if (!(fabs(sum - wanted) < 1e-4 * fabs(wanted)))
            fail_msg("%s, row %zu: %.6f, lm_eval has %.6f", c->file, row, sum, wanted);
    }
    text_encoder_free(&encoder);
    free(tokens.data);
}

static void test_lm_eval(void **state) {
    const struct text_world *w = *state;
    struct policy *policy;
    struct scoring *scoring = scoring_of(w, &policy);
    json_t *cases = json_load_file(DATA "expected.json", 0, NULL);
    assert_true(json_array_size(cases) >= 14);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        struct lm_case c = read_case(json_array_get(cases, i));
        struct row_file file;
        struct err err = {0};
        char path[256];
        snprintf(path, sizeof path, DATA "%s", c.file);
        must(row_file_read(path, 0, &file, &err), &err);
        assert_int_equal(file.n, json_array_size(c.items));
        (strcmp(c.kind, "rolling") == 0 ? expect_rolling : expect_choices)(w, scoring, &c, &file);
        row_file_free(&file);
    }
    json_decref(cases);
    scoring_free(scoring);
    policy_free(policy);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws),
        cmocka_unit_test(test_samples),
        cmocka_unit_test(test_harness_windows),
        cmocka_unit_test(test_windows_cover),
        cmocka_unit_test_setup_teardown(test_pairs, open_demo, close_demo),
        cmocka_unit_test_setup_teardown(test_groups, open_groups, close_groups),
        cmocka_unit_test_setup_teardown(test_dense_contexts, open_groups, close_groups),
        cmocka_unit_test_setup_teardown(test_lm_eval, open_demo, close_demo),
    };
    return cmocka_run_group_tests_name("eval", tests, NULL, NULL);
}
