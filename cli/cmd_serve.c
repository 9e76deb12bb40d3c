/* spkv serve: answers requests that come as lines of JSON, one reply a line, in order. What a request does wrong is an
 * error in its reply; the program ends with its input. docs/eval.md describes the lines. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/eval.h"
#include "engine/generation.h"

enum { KEY_STDIO = 0x700, KEY_MAX_LENGTH, KEY_BOS };
enum { MAX_STOPS = 64, DEFAULT_NEW = 256 /* as in lm-eval */ };

static const struct argp_option argp_options[] = {
    {"stdio", KEY_STDIO, NULL, 0, "requests on standard input, replies on standard output (required)", 1},
    {"max-length", KEY_MAX_LENGTH, "N", 0, "most tokens of a context, of a window (the model's limit)", 1},
    {"bos", KEY_BOS, "auto|yes|no", 0, "a start token before every text (auto: as the tokenizer's template says)", 1},
    {0},
};

struct server {
    struct eval_options options; /* nothing of it but run, max_length, bos, truncate, alone is used */
    bool stdio;
    struct evaluation e;
    struct eval_batch batch;
    struct eval_row row;
    struct session *session;     /* of generations; NULL before the first */
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct server *s = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = &s->options.run; break;
    case KEY_STDIO: s->stdio = true; break;
    case KEY_MAX_LENGTH: s->options.max_length = (int)cli_parse_int(state, "max-length", arg, 1, 1 << 24); break;
    case KEY_BOS:
        cli_parse_choice(state, "bos", arg, "auto|yes|no");
        s->options.bos = arg[0] == 'a' ? BOS_AUTO : arg[0] == 'y' ? BOS_YES : BOS_NO;
        break;
    case ARGP_KEY_ARG:
        if (s->options.run.model)
            argp_error(state, "one MODEL directory, please");
        s->options.run.model = arg;
        break;
    case ARGP_KEY_END:
        if (!s->options.run.model)
            argp_error(state, "which MODEL directory?");
        if (!s->stdio)
            argp_error(state, "--stdio is the only way to talk so far: say so");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* --- methods: each puts its results into the reply --- */

static const char where[] = "request";

static int require_string(const json_t *request, const char *key, const char **out, struct err *err) {
    int rc = json_require(request, key, where, err);
    return rc == OK ? json_get_string(request, key, out, where, err) : rc;
}

static json_t *score_json(const struct server *s, size_t i) {
    const struct score *score = &s->batch.scores[SIDE_POLICY][i];
    return json_pack("{s:f, s:b, s:I, s:I}", "log_likelihood", score->log_likelihood, "is_greedy", score->is_greedy, "n_tok",
                     (json_int_t)score->n_scored, "n_truncated", (json_int_t)s->batch.spans[i].n_cut);
}

/* One "continuation", or "continuations" that share the context: a result for each. */
static int answer_loglikelihood(struct server *s, const json_t *request, json_t *reply, struct err *err) {
    const char *context = NULL, *continuation = NULL;
    json_t *list = NULL, *results;
    int rc = require_string(request, "context", &context, err);
    if (rc == OK && (rc = json_get_array(request, "continuations", &list, where, err)) == OK && !list)
        rc = require_string(request, "continuation", &continuation, err);
    if (rc == OK)
        rc = eval_batch_group(&s->batch, err);
    if (rc == OK && !list)
        rc = eval_batch_text(&s->e, &s->batch, context, continuation, where, err);
    for (size_t i = 0; rc == OK && i < json_array_size(list); i++) {
        continuation = json_string_value(json_array_get(list, i));
        rc = continuation ? eval_batch_text(&s->e, &s->batch, context, continuation, where, err)
                          : err_set(err, ERR_INPUT, where, "\"continuations\": item %zu is not text", i);
    }
    if (rc == OK && s->batch.n_requests == 0)
        rc = err_set(err, ERR_INPUT, where, "\"continuations\" is empty");
    if (rc != OK || (rc = eval_score(&s->e, &s->batch, &s->row, err)) != OK)
        return rc;
    results = json_array();
    for (size_t i = 0; i < s->batch.n_requests; i++)
        json_array_append_new(results, score_json(s, i));
    json_object_set_new(reply, "results", results);
    return OK;
}

static int answer_rolling(struct server *s, const json_t *request, json_t *reply, struct err *err) {
    const char *text;
    double sum = 0;
    size_t n_tok = 0;
    int rc = require_string(request, "text", &text, err);
    if (rc == OK)
        rc = eval_batch_windows(&s->e, &s->batch, text, strlen(text), err);
    if (rc == OK && s->batch.n_requests)
        rc = eval_score(&s->e, &s->batch, &s->row, err);
    for (size_t i = 0; rc == OK && i < s->batch.n_requests; i++) {
        sum += s->batch.scores[SIDE_POLICY][i].log_likelihood;
        n_tok += s->batch.scores[SIDE_POLICY][i].n_scored;
    }
    json_object_set_new(reply, "log_likelihood", json_real(sum));
    json_object_set_new(reply, "n_tok", json_integer((json_int_t)n_tok));
    return rc;
}

/* "until" is a text or a list of them. */
static int read_stops(const json_t *request, const char **stops, size_t *n, struct err *err) {
    const json_t *until = json_object_get(request, "until");
    *n = 0;
    if (json_is_string(until))
        stops[(*n)++] = json_string_value(until);
    else if (until && !json_is_null(until) && !json_is_array(until))
        return err_set(err, ERR_INPUT, where, "\"until\" is neither text nor a list of texts");
    for (size_t i = 0; i < json_array_size(until); i++) {
        const char *stop = json_string_value(json_array_get(until, i));
        if (!stop || *n == MAX_STOPS)
            return err_set(err, ERR_INPUT, where, "\"until\" must hold at most %d texts, and nothing else", MAX_STOPS);
        stops[(*n)++] = stop;
    }
    return OK;
}

static int read_sampling(const struct server *s, const json_t *request, struct sampling *out, int64_t *n_new,
                         struct err *err) {
    double temperature = 0, top_p = 1;
    int64_t top_k = 0, seed = (int64_t)s->options.run.seed, limit = (int64_t)s->e.encoder.max_length - 1;
    bool sample = true;
    int rc;
    *n_new = DEFAULT_NEW < limit ? DEFAULT_NEW : limit;
    if ((rc = json_get_real(request, "temperature", 0, 100, &temperature, where, err)) != OK ||
        (rc = json_get_real(request, "top_p", 0, 1, &top_p, where, err)) != OK ||
        (rc = json_get_int(request, "top_k", 0, 1 << 24, &top_k, where, err)) != OK ||
        (rc = json_get_int(request, "seed", 0, INT64_MAX, &seed, where, err)) != OK ||
        (rc = json_get_bool(request, "do_sample", &sample, where, err)) != OK ||
        (rc = json_get_int(request, "max_gen_toks", 1, limit, n_new, where, err)) != OK)
        return rc;
    *out = (struct sampling){.temperature = sample ? (float)temperature : 0, .top_k = (int)top_k, .top_p = (float)top_p,
                             .seed = (uint64_t)seed};
    return OK;
}

static int open_session(struct server *s, struct err *err) {
    const struct run_options_cli *run = &s->options.run;
    size_t max_length = s->e.encoder.max_length, chunk = (size_t)run->chunk;
    struct session_options options = {.n_slots = 1, .max_len = (int)max_length, .policy = s->e.loaded.policy,
                                      .max_rows = chunk < max_length ? chunk : max_length,
                                      .dense_prefill = run->dense_prefill};
    return s->session ? OK : session_create(s->e.loaded.model, &options, &s->session, err);
}

/* The context loses tokens from the left until the answer fits behind it. */
static int answer_generate(struct server *s, const json_t *request, json_t *reply, struct err *err) {
    const char *context, *stops[MAX_STOPS];
    struct generation_options options = {.stops = stops, .chunk = (size_t)s->options.run.chunk};
    struct token_list *tokens = &s->batch.tokens;
    struct str text = {0};
    int64_t n_new;
    size_t n_special, n_drawn = 0;
    int rc;
    if ((rc = require_string(request, "context", &context, err)) != OK ||
        (rc = read_stops(request, stops, &options.n_stops, err)) != OK ||
        (rc = read_sampling(s, request, &options.sampling, &n_new, err)) != OK || (rc = open_session(s, err)) != OK ||
        (rc = encode_text(&s->e.encoder, context, strlen(context), tokens, &n_special, err)) != OK)
        return rc;
    if (tokens->len == 0)
        return err_set(err, ERR_INPUT, where, "\"context\" has no tokens");
    size_t room = s->e.encoder.max_length - (size_t)n_new, n_cut = tokens->len > room ? tokens->len - room : 0;
    options.max_new = (size_t)n_new;
    rc = generate_text(s->session, 0, s->batch.first_id, s->e.loaded.model, s->e.loaded.tokenizer, tokens->data + n_cut,
                       tokens->len - n_cut, &options, &text, &n_drawn, err);
    json_object_set_new(reply, "text", json_string(str_text(&text)));
    json_object_set_new(reply, "n_tok", json_integer((json_int_t)n_drawn));
    json_object_set_new(reply, "n_truncated", json_integer((json_int_t)n_cut));
    str_free(&text);
    return rc;
}

static int answer_info(struct server *s, const json_t *request, json_t *reply, struct err *err) {
    const struct loaded *l = &s->e.loaded;
    char program[128];
    (void)request, (void)err;
    snprintf(program, sizeof program, "spkv %s (%s)", cli_version, cli_commit);
    json_object_set_new(reply, "program", json_string(program));
    json_object_set_new(reply, "model", json_string(s->options.run.model));
    json_object_set_new(reply, "model_hash", json_string(checkpoint_model_hash(l->checkpoint)));
    json_object_set_new(reply, "policy", json_loads(str_text(&l->policy->parameters), 0, NULL));
    json_object_set_new(reply, "prefill", json_string(s->options.run.dense_prefill ? "dense" : "pruned"));
    json_object_set_new(reply, "dtype", json_string(l->dtype_name));
    json_object_set_new(reply, "max_length", json_integer((json_int_t)s->e.encoder.max_length));
    return OK;
}

static const struct method {
    const char *name;
    int (*answer)(struct server *s, const json_t *request, json_t *reply, struct err *err);
} methods[] = {
    {"loglikelihood", answer_loglikelihood},
    {"loglikelihood_rolling", answer_rolling},
    {"generate_until", answer_generate},
    {"info", answer_info},
};

/* --- lines --- */

static int answer(struct server *s, const json_t *request, json_t *reply, struct err *err) {
    const char *name;
    int rc = require_string(request, "method", &name, err);
    eval_batch_clear(&s->batch);
    if (rc != OK)
        return rc;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (strcmp(methods[i].name, name) == 0)
            return methods[i].answer(s, request, reply, err);
    return err_set(err, ERR_INPUT, where, "there is no method \"%s\" (loglikelihood, loglikelihood_rolling, generate_until, "
                   "info)", name);
}

static const char *code_name(int code) {
    return code == ERR_INPUT || code == ERR_USAGE ? "request" : code == ERR_MEMORY ? "memory" : "failed";
}

/* Reads one line, writes one. */
static void serve_line(struct server *s, const char *line, size_t n) {
    struct err err = {0};
    json_t *request = NULL, *results = json_object();
    int rc = json_parse_object(line, n, where, &request, &err);
    json_t *id = json_object_get(request, "id"), *reply = json_pack("{s:O?}", "id", id);
    if (rc == OK)
        rc = answer(s, request, results, &err);
    if (rc == OK)
        json_object_update(reply, results);
    else
        json_object_set_new(reply, "error", json_pack("{s:s, s:s}", "code", code_name(rc), "message", err.message));
    json_dumpf(reply, stdout, JSON_COMPACT);
    putchar('\n');
    fflush(stdout);
    json_decref(reply);
    json_decref(results);
    json_decref(request);
}

static bool is_blank(const char *line, size_t n) {
    return strspn(line, " \t\r\n") == n;
}

static int serve(struct server *s, struct err *err) {
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int rc = evaluation_open(&s->e, err);
    while (rc == OK && !*s->e.stop && !ferror(stdout) && (n = getline(&line, &cap, stdin)) >= 0)
        if (!is_blank(line, (size_t)n))
            serve_line(s, line, (size_t)n);
    if (rc == OK)
        rc = cli_finish_stdout(err);
    free(line);
    session_free(s->session);
    eval_batch_free(&s->batch);
    evaluation_close(&s->e);
    return rc;
}

int cmd_serve(int argc, char **argv) {
    static const struct argp_child children[] = {{&run_options_argp, 0, "Model and policy:", 5}, {0}};
    static const struct argp argp = {argp_options, parse, "MODEL",
                                     "Answers requests for log-likelihoods and texts, one JSON object a line, under any "
                                     "policy. scripts/spkv_lm_eval.py runs lm-eval on it.",
                                     children, NULL, NULL};
    struct server *s = calloc(1, sizeof *s);
    struct err err = {0};
    if (!s) {
        err_memory(&err, "a server", sizeof *s);
    } else {
        s->options.run = run_options_default();
        s->options.truncate = s->options.alone = true;
        s->e.options = &s->options;
        s->e.stop = cli_stop_flag();
        argp_parse(&argp, argc, argv, 0, NULL, s);
        serve(s, &err);
    }
    free(s);
    return cli_report(&err);
}
