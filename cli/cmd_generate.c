/* spkv generate: continues a prompt, with cache statistics. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/run_options.h"
#include "engine/generation.h"

struct generate_options {
    struct run_options_cli run;
    const char *prompt, *prompt_file;
    int n_new, max_length;
    struct sampling sampling;
    bool ignore_eos;
};

enum { KEY_FILE = 0x200, KEY_MAX_LENGTH, KEY_TEMPERATURE, KEY_TOP_K, KEY_TOP_P, KEY_IGNORE_EOS };

static const struct argp_option argp_options[] = {
    {"prompt", 'p', "TEXT", 0, "the text to continue (empty: from the start token)", 1},
    {"file", KEY_FILE, "FILE", 0, "read the prompt from a file, - for standard input", 1},
    {"n-tokens", 'n', "N", 0, "most new tokens (128)", 1},
    {"temperature", KEY_TEMPERATURE, "X", 0, "0 takes the likeliest token (0)", 1},
    {"top-k", KEY_TOP_K, "N", 0, "draw from the N likeliest tokens, 0 = all (0)", 1},
    {"top-p", KEY_TOP_P, "X", 0, "draw from the likeliest tokens that make up X (1)", 1},
    {"max-length", KEY_MAX_LENGTH, "N", 0, "longest sequence (the model's limit)", 1},
    {"ignore-eos", KEY_IGNORE_EOS, NULL, 0, "go on after an end-of-sequence token", 1},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct generate_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = &o->run; break;
    case 'p': o->prompt = arg; break;
    case 'n': o->n_new = (int)cli_parse_int(state, "n-tokens", arg, 0, 1 << 24); break;
    case KEY_FILE: o->prompt_file = arg; break;
    case KEY_MAX_LENGTH: o->max_length = (int)cli_parse_int(state, "max-length", arg, 2, 1 << 24); break;
    case KEY_TEMPERATURE: o->sampling.temperature = (float)cli_parse_real(state, "temperature", arg, 0, 100); break;
    case KEY_TOP_K: o->sampling.top_k = (int)cli_parse_int(state, "top-k", arg, 0, 1 << 24); break;
    case KEY_TOP_P: o->sampling.top_p = (float)cli_parse_real(state, "top-p", arg, 0, 1); break;
    case KEY_IGNORE_EOS: o->ignore_eos = true; break;
    case ARGP_KEY_ARG:
        if (o->run.model)
            argp_error(state, "one MODEL directory, please");
        o->run.model = arg;
        break;
    case ARGP_KEY_NO_ARGS: argp_error(state, "which MODEL directory?"); break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* The prompt's ids with the template's prefix. */
static int read_prompt(const struct generate_options *o, const struct loaded *l, struct token_list *ids, struct err *err) {
    char *text = NULL;
    size_t n = o->prompt ? strlen(o->prompt) : 0, n_prefix;
    const int32_t *prefix = tokenizer_prefix(l->tokenizer, &n_prefix);
    int bos = l->model->config->bos_id, rc = OK;
    if (o->prompt_file)
        rc =
            file_read_all(strcmp(o->prompt_file, "-") == 0 ? "/dev/stdin" : o->prompt_file, (size_t)1 << 30, &text, &n, err);
    if (rc == OK)
        rc = mem_grow(&ids->data, &ids->cap, n_prefix + 1, sizeof *ids->data, "a prompt", err);
    if (rc == OK && n_prefix)
        memcpy(ids->data, prefix, n_prefix * sizeof *prefix);
    ids->len = n_prefix;
    if (rc == OK && n)
        rc = tokenizer_encode(l->tokenizer, text ? text : o->prompt, n, ids, err);
    if (rc == OK && ids->len == 0 && bos < 0)
        rc = err_set(err, ERR_USAGE, "", "an empty prompt needs a model with a start token (give --prompt)");
    if (rc == OK && ids->len == 0)
        ids->data[ids->len++] = bos;
    free(text);
    return rc;
}

/* Bytes of `text` from `from` on that end in a complete character. */
static size_t complete_until(const struct str *text, size_t from) {
    size_t end = text->len;
    for (size_t back = 1; back <= 3 && back <= end - from; back++) {
        unsigned char c = (unsigned char)text->data[end - back];
        if (c >= 0xC0)
            return end - back; /* a sequence that has begun: wait for its end */
        if (c < 0x80)
            break;
    }
    return end;
}

struct generation {
    struct token_list ids;
    size_t n_prompt;
    struct str text;         /* the whole text decoded so far */
    double prefill_seconds, decode_seconds;
};

/* Prints what is new in the decoded text. Decoding again from the prompt's end keeps joins between tokens right. */
static void print_new(const struct loaded *l, struct generation *g, size_t *printed, bool last) {
    str_clear(&g->text);
    tokenizer_decode(l->tokenizer, g->ids.data, g->ids.len, true, &g->text);
    size_t end = last ? g->text.len : complete_until(&g->text, *printed < g->text.len ? *printed : g->text.len);
    bool replacement = !last && end >= 3 && memcmp(g->text.data + end - 3, "\xEF\xBF\xBD", 3) == 0; /* half a character */
    if (end > *printed && !replacement) {
        fwrite(g->text.data + *printed, 1, end - *printed, stdout);
        fflush(stdout);
        *printed = end;
    }
}

static int generate(const struct generate_options *o, const struct loaded *l, struct session *s, struct generation *g,
                    struct err *err) {
    const volatile sig_atomic_t *stop = cli_stop_flag();
    size_t printed = 0;
    int slot = 0, one = 1, max_length = o->max_length;
    uint64_t start = clock_us();
    session_reset(s, slot, 0);
    int rc = session_prefill(s, slot, g->ids.data, g->ids.len, (size_t)o->run.chunk, err);
    session_end_prefill(s, slot);
    for (int i = 0; i < o->n_new && rc == OK && !*stop && session_length(s, slot) < max_length; i++) {
        int32_t id;
        const int32_t *piece = &id;
        if ((rc = session_sample(s, &o->sampling, &id, err)) != OK)
            break;
        if (i == 0) {
            g->prefill_seconds = (double)(clock_us() - start) * 1e-6;
            start = clock_us();
        }
        if (is_end_of_text(l->model->config, id) && !o->ignore_eos)
            break;
        if ((rc = mem_grow(&g->ids.data, &g->ids.cap, g->ids.len + 1, sizeof id, "tokens", err)) != OK)
            break;
        g->ids.data[g->ids.len++] = id;
        if (!o->run.json)
            print_new(l, g, &printed, false);
        if (session_length(s, slot) < max_length)
            rc = session_feed(s, &(struct feed){1, &slot, &piece, &one}, err);
    }
    g->decode_seconds = (double)(clock_us() - start) * 1e-6;
    if (rc == OK && !o->run.json) {
        print_new(l, g, &printed, true);
        putchar('\n');
    }
    return rc;
}

static int print_statistics(const struct generate_options *o, const struct loaded *l, struct session *s,
                            struct generation *g, struct err *err) {
    struct kv_counts counts = {0};
    size_t n_new = g->ids.len - g->n_prompt;
    int rc = kv_cache_read_counts(session_cache(s), 0, &counts, err);
    if (rc != OK)
        return rc;
    double speed = n_new > 1 && g->decode_seconds > 0 ? (double)(n_new - 1) / g->decode_seconds : 0;
    if (o->run.json) {
        str_clear(&g->text);
        tokenizer_decode(l->tokenizer, g->ids.data, g->ids.len, true, &g->text);
        json_t *root = json_pack(
            "{s:s, s:i, s:s, s:o, s:I, s:I, s:f, s:f, s:I, s:I, s:I}", "schema", "spkv-generate", "version", 1, "text",
            str_text(&g->text), "policy", json_loads(str_text(&l->policy->parameters), 0, NULL), "n_prompt_tok",
            (json_int_t)g->n_prompt, "n_new_tok", (json_int_t)n_new, "prefill_seconds", g->prefill_seconds,
            "decode_tok_per_s", speed, "cache_bytes_used", (json_int_t)counts.used_bytes, "cache_bytes_allocated",
            (json_int_t)counts.allocated_bytes, "cache_bytes_full", (json_int_t)counts.full_bytes);
        json_dumpf(root, stdout, JSON_INDENT(1));
        putchar('\n');
        json_decref(root);
    } else if (!o->run.quiet) {
        fprintf(stderr,
                "spkv: %zu + %zu tokens, prefill %.2f s, decode %.1f tok/s, policy %s: cache %.1f KB used, %.1f allocated, "
                "%.1f in full\n",
                g->n_prompt, n_new, g->prefill_seconds, speed, l->policy->name, (double)counts.used_bytes / 1024,
                (double)counts.allocated_bytes / 1024, (double)counts.full_bytes / 1024);
    }
    return OK;
}

int cmd_generate(int argc, char **argv) {
    static const struct argp_child children[] = {{&run_options_argp, 0, "Model and policy:", 5}, {0}};
    static const struct argp argp = {argp_options, parse, "MODEL", "Continues a prompt.", children, NULL, NULL};
    struct generate_options o = {.run = run_options_default(), .n_new = 128, .sampling = {.top_p = 1}};
    struct loaded l;
    struct generation g = {0};
    struct session *s = NULL;
    struct err err = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    o.sampling.seed = o.run.seed;
    int rc = loaded_open(&o.run, true, &l, &err);
    if (rc == OK)
        rc = read_prompt(&o, &l, &g.ids, &err);
    if (rc == OK) {
        int limit = l.model->config->max_positions, wanted = (int)g.ids.len + o.n_new;
        g.n_prompt = g.ids.len;
        o.max_length = o.max_length ? o.max_length : wanted < limit ? wanted : limit;
        struct session_options options = {.n_slots = 1,
                                          .max_len = o.max_length,
                                          .policy = l.policy,
                                          .dense_prefill = o.run.dense_prefill,
                                          .max_rows = g.ids.len < (size_t)o.run.chunk ? g.ids.len : (size_t)o.run.chunk};
        rc = session_create(l.model, &options, &s, &err);
    }
    if (rc == OK && (rc = generate(&o, &l, s, &g, &err)) == OK)
        rc = print_statistics(&o, &l, s, &g, &err);
    if (rc == OK)
        cli_finish_stdout(&err);
    session_free(s);
    str_free(&g.text);
    free(g.ids.data);
    loaded_close(&l);
    return cli_report(&err);
}
