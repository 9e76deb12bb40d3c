#include "cli/refine_text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "datasets/sequences.h"
#include "engine/run.h"

enum { DEFAULT_MAX_LENGTH = 1024, BATCH = 4, CHUNK = 512 };

/* --- reading ---------------------------------------------------------------------------------------------------------- */

/* Lets the sequences of one half through and notes their documents. */
struct sieve {
    struct source all;
    uint64_t parity;
    struct half *half;
};

static int next_of_half(void *self, struct sequence *out, int *end, struct err *err) {
    struct sieve *s = self;
    struct half *h = s->half;
    int rc;
    do {
        rc = s->all.next(s->all.self, out, end, err);
    } while (rc == OK && !*end && out->document % 2 != s->parity);
    if (rc != OK || *end)
        return rc;
    if ((rc = mem_grow(&h->document, &h->document_cap, h->n + 1, sizeof *h->document, "documents", err)) != OK)
        return rc;
    h->n_documents += h->n == 0 || h->document[h->n - 1] != out->document;
    h->document[h->n++] = out->document;
    return OK;
}

static int read_half(const struct refine_options *o, const struct loaded *l, struct corpus *corpus, uint64_t parity,
                     struct half *half, struct err *err) {
    int limit = l->model->config->max_positions, length = o->max_length ? o->max_length : DEFAULT_MAX_LENGTH;
    struct sequence_options cut = {.max_length = (size_t)(length < limit ? length : limit), .limit = o->limit};
    struct sequences *sequences;
    int rc = sequences_create(corpus, l->tokenizer, &cut, &sequences, err);
    if (rc != OK)
        return rc;
    struct sieve sieve = {.all = sequences_source(sequences), .parity = parity, .half = half};
    struct source source = {.self = &sieve, .next = next_of_half};
    rc = pieces_read(&source, o->corpora[0], l->model->config->vocab_size, 0, &half->pieces, err);
    sequences_free(sequences);
    if (rc == OK && half->n == 0)
        rc = err_set(err, ERR_INPUT, o->corpora[0], "fewer than two documents: one is searched on, another confirms");
    return rc;
}

static void describe(const struct refine_options *o, const struct corpus *corpus, struct refine_text *t) {
    t->corpora = json_array();
    t->hashes = json_array();
    for (size_t i = 0; i < o->n_corpora; i++)
        json_array_append_new(t->corpora, json_string(o->corpora[i]));
    for (size_t i = 0; i < corpus_n_files(corpus); i++)
        json_array_append_new(t->hashes, json_string(corpus_file(corpus, i)->hash));
}

int refine_text_read(const struct refine_options *o, const struct loaded *l, struct refine_text *out, struct err *err) {
    int rc = OK;
    *out = (struct refine_text){0};
    for (uint64_t parity = 0; rc == OK && parity < 2; parity++) {
        struct corpus *corpus;
        if ((rc = corpus_open((char *const *)o->corpora, o->n_corpora, &(struct corpus_options){0}, &corpus, err)) != OK)
            break;
        rc = read_half(o, l, corpus, parity, parity ? &out->held_out : &out->search, err);
        if (rc == OK && parity == 1)
            describe(o, corpus, out);
        corpus_close(corpus);
    }
    if (rc != OK)
        refine_text_free(out);
    return rc;
}

void refine_text_free(struct refine_text *t) {
    struct half *halves[] = {&t->search, &t->held_out};
    for (int i = 0; i < 2; i++) {
        pieces_free(halves[i]->pieces);
        free(halves[i]->document);
    }
    json_decref(t->corpora);
    json_decref(t->hashes);
    *t = (struct refine_text){0};
}

/* --- measuring -------------------------------------------------------------------------------------------------------- */

/* The layout policy's file, out of memory. */
static int load_layout(void *self, const char *path, struct policy_layout *out, struct err *err) {
    (void)path;
    return layout_for_policy(self, out, err);
}

static int make_policy(const struct loaded *l, const struct layout *layout, struct policy **out, struct err *err) {
    struct layout own = *layout;
    struct policy_request request = {.model = l->model->config, .sinks = -1, .threshold = NAN, .load_layout = load_layout,
                                     .self = &own};
    return policy_create("layout:file=memory", &request, out, err);
}

/* Sums over documents while sequences finish. */
struct adding {
    const struct half *half;
    struct document_losses *losses;
};

static int add_sequence(void *self, const struct sequence_report *report, struct err *err) {
    struct adding *a = self;
    struct document_losses *l = a->losses;
    uint64_t document = a->half->document[report->sequence->index];
    (void)err;
    if (l->n == 0 || l->document[l->n - 1] != document)
        l->document[l->n++] = document;
    l->nll[l->n - 1] += report->nll_sum;
    l->n_predicted[l->n - 1] += (double)report->n_predicted;
    return OK;
}

static int run(const struct loaded *l, const struct half *half, const struct policy *policy, struct adding *adding,
               struct err *err) {
    struct pieces_reader reader = {0};
    struct run_totals totals;
    struct observer observer = {.self = adding, .on_sequence = add_sequence};
    struct run_options options = {.policy = policy, .batch = BATCH, .chunk = CHUNK, .n_shards = 1,
                                  .stop = cli_stop_flag()};
    for (size_t i = 0; i < half->n; i++)
        options.max_len = (int)pieces_len(half->pieces, i) > options.max_len ? (int)pieces_len(half->pieces, i)
                                                                             : options.max_len;
    int rc = pieces_reader_open(half->pieces, &reader, err);
    if (rc == OK) {
        struct source source = pieces_reader_source(&reader);
        rc = run_source(l->model, &source, &observer, &options, &totals, err);
    }
    pieces_reader_close(&reader);
    return rc;
}

int refine_text_measure(const struct loaded *l, const struct half *half, const struct layout *layout,
                        struct document_losses *out, struct err *err) {
    struct policy *policy = NULL;
    struct adding adding = {half, out};
    int rc = document_losses_create(half->n_documents, out, err);
    if (rc == OK)
        rc = make_policy(l, layout, &policy, err);
    if (rc == OK)
        rc = run(l, half, policy, &adding, err);
    policy_free(policy);
    if (rc != OK)
        document_losses_free(out);
    return rc;
}
