#include "cli/refine.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/refine_log.h"
#include "cli/refine_text.h"
#include "cli/run_options.h"

enum { KEY_REFINE = 0x700, KEY_TEXT, KEY_LOG, KEY_SECONDS, KEY_LIMIT, KEY_MAX_LENGTH };
enum { MAX_TRIES = 16 /* swaps measured before a round gives up */ };

static const struct argp_option argp_options[] = {
    {"refine", KEY_REFINE, "MODEL", 0, "make the layout better on this model: swap heads as long as the loss falls", 8},
    {"refine-text", KEY_TEXT, "CORPUS", 0, "text to measure on; may be repeated. Every second document is held out", 8},
    {"refine-log", KEY_LOG, "FILE", 0, "every measurement as CSV; a search that was stopped goes on from it", 8},
    {"refine-seconds", KEY_SECONDS, "X", 0, "time of the search at most", 8},
    {"refine-limit", KEY_LIMIT, "N", 0, "sequences of the text at most", 8},
    {"refine-length", KEY_MAX_LENGTH, "N", 0, "tokens of a sequence (1024)", 8},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct refine_options *o = state->input;
    switch (key) {
    case KEY_REFINE: o->model = arg; break;
    case KEY_TEXT:
        if (o->n_corpora == REFINE_MAX_CORPORA)
            argp_error(state, "more than %d corpora (name a directory instead)", REFINE_MAX_CORPORA);
        o->corpora[o->n_corpora++] = arg;
        break;
    case KEY_LOG: o->log = arg; break;
    case KEY_SECONDS: o->seconds = cli_parse_real(state, "refine-seconds", arg, 0, 1e9); break;
    case KEY_LIMIT: o->limit = (uint64_t)cli_parse_int(state, "refine-limit", arg, 2, LLONG_MAX); break;
    case KEY_MAX_LENGTH: o->max_length = (int)cli_parse_int(state, "refine-length", arg, 2, 1 << 24); break;
    case ARGP_KEY_END:
        if (!o->model != (o->n_corpora == 0))
            argp_error(state, "--refine MODEL and --refine-text CORPUS go together");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

const struct argp refine_argp = {argp_options, parse, NULL, NULL, NULL, NULL, NULL};

/* --- the search ------------------------------------------------------------------------------------------------------- */

struct search {
    const struct loaded *loaded;
    const struct refine_text *text;
    struct refine_log log;
    struct layout *best;      /* its heads change */
    double best_nll;
    uint64_t end_us;          /* 0 = no limit */
    bool over;                /* the time is */
    size_t n_measured, n_swaps;
    char *key;                /* (heads + 1) */
};

static size_t n_heads(const struct search *s) {
    return (size_t)s->best->n_layers * s->best->n_kv_heads;
}

static void write_key(const struct search *s) {
    for (size_t i = 0; i < n_heads(s); i++)
        s->key[i] = s->best->heads[i] == HEAD_GLOBAL ? '1' : s->best->heads[i] == HEAD_LOCAL ? '0' : '-';
}

static void head_name(const struct search *s, size_t head, char out[32]) {
    out[0] = 0;
    if (head < n_heads(s))
        snprintf(out, 32, "%zu.%zu", head / s->best->n_kv_heads, head % s->best->n_kv_heads);
}

static int measure_now(struct search *s, double *nll, struct err *err) {
    struct document_losses losses;
    double sum = 0, n = 0;
    int rc = refine_text_measure(s->loaded, &s->text->search, s->best, &losses, err);
    for (size_t i = 0; rc == OK && i < losses.n; i++) {
        sum += losses.nll[i];
        n += losses.n_predicted[i];
    }
    if (rc == OK)
        document_losses_free(&losses);
    *nll = sum / n;
    return rc;
}

/* The loss of the best layout with head `out` local and `in` global (SIZE_MAX: none), from the log or now. Nothing is
 * measured when the time is over. */
static int loss_with(struct search *s, const char *what, size_t out, size_t in, double *nll, struct err *err) {
    uint8_t *heads = s->best->heads;
    char out_name[32], in_name[32];
    int rc = OK;
    if (out != SIZE_MAX)
        heads[out] = HEAD_LOCAL;
    if (in != SIZE_MAX)
        heads[in] = HEAD_GLOBAL;
    write_key(s);
    const double *known = refine_log_find(&s->log, s->key);
    s->over = s->over || (s->end_us && clock_us() >= s->end_us);
    if (known)
        *nll = *known;
    else if (!s->over && (rc = measure_now(s, nll, err)) == OK) {
        head_name(s, out, out_name);
        head_name(s, in, in_name);
        rc = refine_log_add(&s->log, what, out_name, in_name, s->key, *nll, s->best_nll, err);
    }
    s->n_measured += known || !s->over;
    if (out != SIZE_MAX)
        heads[out] = HEAD_GLOBAL;
    if (in != SIZE_MAX)
        heads[in] = HEAD_LOCAL;
    return rc;
}

/* A swap and what it promises, were the two changes independent. */
struct swap {
    size_t out, in;
    double promise; /* nat per token, negative is better */
};

static int by_promise(const void *a, const void *b) {
    const struct swap *x = a, *y = b;
    if (x->promise != y->promise)
        return x->promise < y->promise ? -1 : 1;
    return x->out != y->out ? (x->out < y->out ? -1 : 1) : x->in < y->in ? -1 : x->in > y->in;
}

/* What every head alone costs when it goes or brings when it comes, against the best layout; (n_heads). */
static int probe(struct search *s, double *change, struct err *err) {
    int rc = OK;
    for (size_t i = 0; rc == OK && i < n_heads(s) && !s->over; i++) {
        double nll = s->best_nll;
        if (s->best->heads[i] == HEAD_GLOBAL)
            rc = loss_with(s, "drop", i, SIZE_MAX, &nll, err);
        else if (s->best->heads[i] == HEAD_LOCAL)
            rc = loss_with(s, "add", SIZE_MAX, i, &nll, err);
        change[i] = nll - s->best_nll;
    }
    return rc;
}

static size_t list_swaps(const struct search *s, const double *change, struct swap *swaps) {
    size_t n = 0;
    for (size_t out = 0; out < n_heads(s); out++)
        for (size_t in = 0; s->best->heads[out] == HEAD_GLOBAL && in < n_heads(s); in++)
            if (s->best->heads[in] == HEAD_LOCAL && change[out] + change[in] < 0)
                swaps[n++] = (struct swap){out, in, change[out] + change[in]};
    qsort(swaps, n, sizeof *swaps, by_promise);
    return n;
}

/* Makes the first swap of a list that lowers the loss. */
static int try_swaps(struct search *s, const struct swap *swaps, size_t n, bool *found, struct err *err) {
    int rc = OK;
    *found = false;
    for (size_t i = 0; rc == OK && i < n && i < MAX_TRIES && !*found; i++) {
        double nll = INFINITY;
        rc = loss_with(s, "swap", swaps[i].out, swaps[i].in, &nll, err);
        if (rc != OK || !(nll < s->best_nll))
            continue;
        *found = true;
        s->best->heads[swaps[i].out] = HEAD_LOCAL;
        s->best->heads[swaps[i].in] = HEAD_GLOBAL;
        s->best_nll = nll;
        s->n_swaps++;
    }
    return rc;
}

/* Rounds of probes and swaps until none helps. */
static int climb(struct search *s, bool quiet, struct err *err) {
    size_t n = n_heads(s);
    double *change = mem_alloc(n, sizeof *change, "changes", err);
    struct swap *swaps = mem_alloc(n * n, sizeof *swaps, "swaps", err);
    bool found = true;
    int rc = change && swaps ? OK : ERR_MEMORY;
    while (rc == OK && found && !s->over) {
        if (!quiet)
            fprintf(stderr, "refine: loss %.5f after %zu swaps, %zu layouts measured\n", s->best_nll, s->n_swaps,
                    s->n_measured);
        rc = probe(s, change, err);
        if (rc == OK && !s->over)
            rc = try_swaps(s, swaps, list_swaps(s, change, swaps), &found, err);
    }
    free(change);
    free(swaps);
    return rc;
}

/* The start is measured anew: a log that disagrees is of another model, text or start. */
static int begin(struct search *s, struct err *err) {
    uint64_t start = clock_us();
    int rc = measure_now(s, &s->best_nll, err);
    if (rc != OK)
        return rc;
    write_key(s);
    const double *known = refine_log_find(&s->log, s->key);
    bool same = s->log.n > 0 && strcmp(s->log.entries[0].heads, s->key) == 0;
    s->n_measured = 1;
    if (s->log.n > 0 && (!same || fabs(*known - s->best_nll) > 1e-9))
        return err_set(err, ERR_INPUT, s->log.path, "is the log of a search from another layout, or with another model or "
                       "text: give another name");
    if (s->end_us)
        s->end_us += clock_us() - start;
    return known ? OK : refine_log_add(&s->log, "start", "", "", s->key, s->best_nll, s->best_nll, err);
}

/* --- the result ------------------------------------------------------------------------------------------------------- */

static int copy_layout(const struct layout *layout, struct layout **out, struct err *err) {
    json_t *root = layout_json(layout);
    char *text = root ? json_dumps(root, 0) : NULL;
    int rc = text ? layout_parse(text, strlen(text), "a layout", out, err) : err_memory(err, "a layout", 0);
    free(text);
    json_decref(root);
    return rc;
}

static int confirm(const struct search *s, const struct layout *start, struct refine_result *r, struct err *err) {
    const struct resampling resampling = {.n = PAIRED_RESAMPLES, .level = 0.95};
    struct document_losses before = {0}, after = {0};
    int rc = refine_text_measure(s->loaded, &s->text->held_out, start, &before, err);
    if (rc == OK)
        rc = refine_text_measure(s->loaded, &s->text->held_out, s->best, &after, err);
    if (rc == OK)
        rc = paired_nll_change(&after, &before, &resampling, &r->held_out, err);
    document_losses_free(&before);
    document_losses_free(&after);
    return rc;
}

/* The layout is chosen on this text, too. Old figures are of other heads. */
static void sign(struct layout *layout, const struct layout *start, const struct refine_text *text,
                 const struct refine_result *r) {
    json_t *hashes = json_deep_copy(json_object_get(start->made_by, "corpus_hashes"));
    if (!hashes)
        hashes = json_array();
    json_array_extend(hashes, text->hashes);
    if (!layout->made_by)
        layout->made_by = json_object();
    json_object_set_new(layout->made_by, "strategy", json_string("refined"));
    json_object_set_new(layout->made_by, "start", json_string(layout_strategy(start)));
    json_object_set_new(layout->made_by, "changed_to_fit", json_array());
    json_object_set_new(layout->made_by, "corpus_hashes", hashes);
    json_object_set_new(layout->made_by, "refined",
                        json_pack("{s:O, s:I, s:I, s:b, s:f, s:f, s:f, s:[f, f], s:I, s:I}", "corpora", text->corpora,
                                  "n_measured", (json_int_t)r->n_measured, "n_swaps", (json_int_t)r->n_swaps, "finished",
                                  r->finished, "nll_start_nat_per_token", r->nll_start, "nll_end_nat_per_token", r->nll_end,
                                  "held_out_nll_change", r->held_out.value, "held_out_nll_change_interval",
                                  r->held_out.low, r->held_out.high, "n_documents_searched", (json_int_t)r->n_search,
                                  "n_documents_held_out", (json_int_t)r->n_held_out));
    json_object_clear(layout->predicted);
    json_decref(layout->measured);
    layout->measured = NULL;
}

static int check_model(const struct layout *layout, const struct loaded *l, const char *model, struct err *err) {
    const struct model_config *c = l->model->config;
    uint32_t *sliding = mem_alloc((size_t)c->n_layers, sizeof *sliding, "windows", err);
    if (!sliding)
        return ERR_MEMORY;
    for (int i = 0; i < c->n_layers; i++)
        sliding[i] = (uint32_t)c->layers[i].sliding_window;
    int rc = layout_check_model(layout, (uint32_t)c->n_layers, (uint32_t)c->n_kv_heads, sliding,
                                checkpoint_base_hash(l->checkpoint), model, err);
    free(sliding);
    return rc;
}

static int search(const struct refine_options *o, struct search *s, const struct layout *start, struct refine_result *r,
                  struct err *err) {
    int rc = begin(s, err);
    r->nll_start = s->best_nll;
    if (rc == OK)
        rc = climb(s, o->quiet, err);
    if (rc == OK)
        rc = confirm(s, start, r, err);
    r->n_measured = s->n_measured;
    r->n_swaps = s->n_swaps;
    r->finished = !s->over;
    r->nll_end = s->best_nll;
    r->n_search = s->text->search.n_documents;
    r->n_held_out = s->text->held_out.n_documents;
    return rc;
}

int refine_layout(const struct refine_options *o, const struct layout *start, struct layout **out, struct refine_result *r,
                  struct err *err) {
    struct run_options_cli run = run_options_default();
    struct loaded loaded = {0};
    struct refine_text text = {0};
    struct search s = {.loaded = &loaded, .text = &text};
    *out = NULL;
    *r = (struct refine_result){0};
    run.model = o->model;
    run.policy = "full";
    run.threads = o->threads;
    run.quiet = o->quiet;
    if (o->seconds > 0)
        s.end_us = clock_us() + (uint64_t)(o->seconds * 1e6);
    int rc = loaded_open(&run, true, &loaded, err);
    if (rc == OK)
        rc = check_model(start, &loaded, o->model, err);
    if (rc == OK)
        rc = refine_text_read(o, &loaded, &text, err);
    if (rc == OK)
        rc = copy_layout(start, &s.best, err);
    if (rc == OK && !(s.key = mem_alloc(n_heads(&s) + 1, 1, "a layout", err)))
        rc = ERR_MEMORY;
    if (rc == OK)
        rc = refine_log_open(o->log, &s.log, err);
    if (rc == OK)
        rc = search(o, &s, start, r, err);
    if (rc == OK) {
        sign(s.best, start, &text, r);
        *out = s.best;
        s.best = NULL;
    }
    refine_log_close(&s.log);
    layout_free(s.best);
    free(s.key);
    refine_text_free(&text);
    loaded_close(&loaded);
    return rc;
}

void refine_print(const struct refine_result *r) {
    bool better = r->held_out.high < 0;
    printf("refined: %zu swaps out of %zu measured layouts%s\n", r->n_swaps, r->n_measured,
           r->finished ? "" : ", stopped by the time limit");
    printf("  searched on %zu documents: loss %.4f, was %.4f nat/token (%+.2f %%)\n", r->n_search, r->nll_end, r->nll_start,
           100 * (r->nll_end / r->nll_start - 1));
    printf("  held out, %zu documents: %+.2f %% [%+.2f, %+.2f]: %s\n", r->n_held_out, 100 * r->held_out.value,
           100 * r->held_out.low, 100 * r->held_out.high,
           r->n_swaps == 0 ? "the start stays" : better ? "confirmed" : "not confirmed, keep the start");
}
