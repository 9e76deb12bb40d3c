#include "cli/run_corpus.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "analyze/profile_writer.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/str.h"
#include "cli/cli.h"
#include "engine/session.h"
#include "engine/token_class.h"

enum {
    KEY_MAX_LENGTH = 0x300,
    KEY_STRIDE,
    KEY_LIMIT,
    KEY_SHARD,
    KEY_RESUME,
    KEY_FORCE,
    KEY_FIELD,
    KEY_SPLIT,
    KEY_STDIN_JSONL
};
enum { DEFAULT_MAX_LENGTH = 4096 };

static const struct argp_option argp_options[] = {
    {"max-length", KEY_MAX_LENGTH, "N", 0, "tokens of a sequence (4096, or the model's limit where that is less)", 20},
    {"stride", KEY_STRIDE, "N", 0, "text tokens from the beginning of a piece to that of the next (no overlap)", 20},
    {"limit", KEY_LIMIT, "N", 0, "stop after N sequences", 20},
    {"field", KEY_FIELD, "NAME", 0, "JSON Lines: the field that holds the text (found from the first row)", 20},
    {"split-blank", KEY_SPLIT, NULL, 0, "a blank line ends a document of a text file", 20},
    {"stdin-jsonl", KEY_STDIN_JSONL, NULL, 0, "standard input (-) is JSON Lines", 20},
    {"shard", KEY_SHARD, "I/N", 0, "run part I (from 0) of N; join the parts with spkv merge (found under mpirun and srun)", 21},
    {"resume", KEY_RESUME, NULL, 0, "go on with an interrupted run", 21},
    {"force", KEY_FORCE, NULL, 0, "replace an existing result", 21},
    {0},
};

static void parse_shard(struct corpus_options_cli *o, char *arg, const struct argp_state *state) {
    char *slash = strchr(arg, '/');
    if (!slash)
        argp_error(state, "--shard: \"%s\" is not I/N", arg);
    *slash = 0;
    o->n_shards = (int)cli_parse_int(state, "shard", slash + 1, 1, 1 << 20);
    o->shard = (int)cli_parse_int(state, "shard", arg, 0, o->n_shards - 1);
    *slash = '/';
    o->shard_given = true;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct corpus_options_cli *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT: o->n_shards = 1; break;
    case KEY_MAX_LENGTH: o->max_length = (int)cli_parse_int(state, "max-length", arg, 2, 1 << 24); break;
    case KEY_STRIDE: o->stride = (int)cli_parse_int(state, "stride", arg, 1, 1 << 24); break;
    case KEY_LIMIT: o->limit = (uint64_t)cli_parse_int(state, "limit", arg, 1, LLONG_MAX); break;
    case KEY_SHARD: parse_shard(o, arg, state); break;
    case KEY_RESUME: o->resume = true; break;
    case KEY_FORCE: o->force = true; break;
    case KEY_FIELD: o->field = arg; break;
    case KEY_SPLIT: o->split_blank = true; break;
    case KEY_STDIN_JSONL: o->stdin_jsonl = true; break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

const struct argp corpus_options_argp = {argp_options, parse, NULL, NULL, NULL, NULL, NULL};

/* Everything a run hangs on; `record_*` below are its observer. */
struct recording {
    const struct run_options_cli *run;
    const struct corpus_options_cli *options;
    const struct loaded *loaded;
    struct corpus *corpus;
    struct sequences *sequences;
    struct token_classes *classes;  /* NULL when classes are not recorded */
    struct profile_writer *writer;
    struct corpus_result *result;
    struct progress progress;
    uint8_t *class_of;              /* (class_cap) of the sequence in hand */
    size_t class_cap;
};

static struct profile_sequence describe(const struct recording *r, const struct sequence *s) {
    return (struct profile_sequence){.index = s->index, .document = s->document, .offset = s->offset, .source = s->source,
                                     .corpus = s->corpus, .tokens = s->tokens, .classes = r->classes ? r->class_of : NULL,
                                     .n_tok = s->n_tok};
}

static int classify(struct recording *r, const struct sequence *s, struct err *err) {
    int rc = r->classes ? mem_grow(&r->class_of, &r->class_cap, s->n_tok, 1, "token classes", err) : OK;
    if (rc == OK && r->classes)
        token_classes_fill(r->classes, s->tokens, s->n_tok, r->class_of);
    return rc;
}

static int record_gates(void *self, const struct gate_report *g, struct err *err) {
    struct recording *r = self;
    int rc = classify(r, g->sequence, err);
    if (rc != OK)
        return rc;
    struct profile_sequence sequence = describe(r, g->sequence);
    struct profile_gates gates = {.sequence = &sequence,
                                  .first = g->first,
                                  .n = g->n,
                                  .utility = g->utility,
                                  .open = g->open,
                                  .layer_stride = g->layer_stride,
                                  .gated = g->gated};
    return profile_writer_add_gates(r->writer, &gates, err);
}

/* Sums for the summary that the command prints. */
static void add_totals(struct recording *r, const struct sequence_report *s) {
    const struct model_config *c = r->loaded->model->config;
    uint64_t n = s->sequence->n_tok;
    bool answer = s->n_predicted > 0 && s->n_predicted + 1 < n;
    r->result->n_argmax += s->n_argmax;
    r->result->n_answers += answer;
    r->result->n_exact += answer && s->n_argmax == s->n_predicted;
    for (int l = 0; l < c->n_layers; l++)
        for (int h = 0; h < c->n_kv_heads && c->layers[l].sliding_window == 0; h++) {
            size_t i = (size_t)l * (size_t)c->n_kv_heads + (size_t)h;
            r->result->n_kept += s->n_kept[i];
            r->result->n_left_window += s->n_left_window[i];
            r->result->visible_pairs += s->visible_pairs[i];
            r->result->causal_pairs += n * (n + 1) / 2;
        }
}

/* What the oracle knows of every token of a finished sequence. */
static int record_future(struct recording *r, const struct profile_sequence *sequence, const struct sequence_report *s,
                         struct err *err) {
    struct profile_gates tokens = {.sequence = sequence,
                                   .n = sequence->n_tok,
                                   .layer_stride = sequence->n_tok * (size_t)r->loaded->model->config->n_kv_heads,
                                   .future_max = s->future_max,
                                   .future_mean = s->future_mean};
    return profile_writer_add_gates(r->writer, &tokens, err);
}

static int record_sequence(void *self, const struct sequence_report *s, struct err *err) {
    struct recording *r = self;
    int rc = classify(r, s->sequence, err);
    if (rc != OK)
        return rc;
    struct profile_sequence sequence = describe(r, s->sequence);
    struct profile_counters counters = {
        .sequence = &sequence, .n_predicted = s->n_predicted, .nll_sum = s->nll_sum, .nll = s->nll,
        .n_argmax = s->n_argmax, .is_argmax = s->is_argmax,
        .n_left_window = s->n_left_window, .n_kept = s->n_kept, .visible_pairs = s->visible_pairs,
        .cache_bytes_used = s->cache_bytes_used, .cache_bytes_allocated = s->cache_bytes_allocated,
        .cache_bytes_full = s->cache_bytes_full, .pool_peak_bytes = s->pool_peak_bytes, .far_sum = s->far_sum,
        .sink_sum = s->sink_sum, .distance_sum = s->distance_sum};
    add_totals(r, s);
    if (s->future_max && (rc = record_future(r, &sequence, s, err)) != OK)
        return rc;
    return profile_writer_add_sequence(r->writer, &counters, err);
}

static int record_batch(void *self, uint64_t batch, struct err *err) {
    struct recording *r = self;
    return profile_writer_end_batch(r->writer, batch, err);
}

static bool batch_done(void *self, uint64_t batch) {
    struct recording *r = self;
    return profile_writer_has_batch(r->writer, batch);
}

static void on_step(void *self, uint64_t n_tok) {
    struct recording *r = self;
    uint64_t total = sequences_bytes_total(r->sequences), done = sequences_bytes_done(r->sequences);
    struct sequence_counts counts = sequences_counts(r->sequences);
    double fed = (double)counts.fed_tokens, by_bytes = 0, by_limit = 0;
    /* Tokens are not known before the end: the share of bytes read, or of sequences, tells how many there will be. */
    if (total && done)
        by_bytes = fed * (double)total / (double)done;
    if (r->options->limit && counts.sequences)
        by_limit = fed * (double)r->options->limit / (double)counts.sequences;
    double estimate = by_limit > 0 && (by_bytes <= 0 || by_limit < by_bytes) ? by_limit : by_bytes;
    r->progress.total = (uint64_t)(estimate / r->options->n_shards);
    progress_update(&r->progress, n_tok);
}

void corpus_check_repeatable(const struct corpus_options_cli *corpus, const struct argp_state *state) {
    if (corpus->n_shards > 1)
        argp_error(state, "--shard: every document must be here to be compared (spkv profile runs shards)");
    for (size_t i = 0; i < corpus->n_corpora; i++)
        if (strcmp(corpus->corpora[i], "-") == 0)
            argp_error(state, "standard input can be read only once: give a file");
}

int corpus_max_length(const struct corpus_options_cli *o, const struct loaded *loaded) {
    int limit = loaded->model->config->max_positions;
    return o->max_length ? o->max_length : limit < DEFAULT_MAX_LENGTH ? limit : DEFAULT_MAX_LENGTH;
}

int corpus_open_sequences(const struct corpus_options_cli *o, const struct loaded *loaded, struct corpus **corpus,
                          struct sequences **sequences, struct err *err) {
    struct corpus_options options = {.split_blank = o->split_blank, .stdin_jsonl = o->stdin_jsonl, .field = o->field};
    struct sequence_options cut = {.max_length = (size_t)corpus_max_length(o, loaded), .stride = (size_t)o->stride,
                                   .limit = o->limit, .document_every = o->document_every,
                                   .document_rest = o->document_rest};
    *corpus = NULL;
    *sequences = NULL;
    int rc = corpus_open(o->corpora, o->n_corpora, &options, corpus, err);
    for (size_t i = 0; rc == OK && i < corpus_n_files(*corpus); i++)
        rc = corpus_hash_file(*corpus, i, err);
    return rc == OK ? sequences_create(*corpus, loaded->tokenizer, &cut, sequences, err) : rc;
}

static int open_corpus(struct recording *r, struct err *err) {
    const struct corpus_options_cli *o = r->options;
    for (size_t i = 0; i < o->n_corpora; i++)
        if (strcmp(o->corpora[i], "-") == 0 && (o->shard_given || o->resume))
            return err_set(err, ERR_USAGE, "", "standard input can be read only once: no --shard and no --resume with -");
    return corpus_open_sequences(o, r->loaded, &r->corpus, &r->sequences, err);
}

/* Arrays that a profile_meta borrows. */
struct meta_arrays {
    uint32_t *sliding, *head_window, *edges;
    int64_t *wide_edges;
    struct profile_source *sources;
    char **corpus_names; /* (n_corpora) */
    size_t n_corpora;
};

static void free_meta_arrays(struct meta_arrays *a) {
    free(a->sliding);
    free(a->head_window);
    free(a->edges);
    free(a->wide_edges);
    free(a->sources);
    for (size_t i = 0; i < a->n_corpora; i++)
        free(a->corpus_names[i]);
    free(a->corpus_names);
}

static int fill_model_meta(const struct recording *r, struct profile_meta *m, struct meta_arrays *a, struct err *err) {
    const struct loaded *l = r->loaded;
    const struct model_config *c = l->model->config;
    size_t n_layers = (size_t)c->n_layers, n_heads = n_layers * (size_t)c->n_kv_heads;
    if (!(a->sliding = mem_alloc(n_layers, sizeof *a->sliding, "windows", err)) ||
        !(a->head_window = mem_alloc(n_heads, sizeof *a->head_window, "windows", err)))
        return ERR_MEMORY;
    bool uniform = true;
    for (size_t i = 0; i < n_heads; i++) {
        size_t layer = i / (size_t)c->n_kv_heads;
        a->sliding[layer] = (uint32_t)c->layers[layer].sliding_window;
        a->head_window[i] = (uint32_t)l->policy->window[i];
        uniform &= a->sliding[layer] > 0 || l->policy->window[i] == l->policy->base_window;
    }
    m->n_layers = (uint32_t)c->n_layers;
    m->n_kv_heads = (uint32_t)c->n_kv_heads;
    m->n_heads = (uint32_t)c->n_heads;
    m->head_dim = (uint32_t)c->head_dim;
    m->vocab_size = (uint32_t)c->vocab_size;
    m->element_bytes = (uint32_t)dtype_size(l->ops->device_dtype(l->dev));
    m->sliding_window = a->sliding;
    m->head_window = uniform ? NULL : a->head_window;
    m->model_path = r->run->model;
    m->model_type = model_type_name(c->type);
    m->model_hash = checkpoint_model_hash(l->checkpoint);
    m->base_model_hash = checkpoint_base_hash(l->checkpoint);
    m->tokenizer_hash = tokenizer_hash(l->tokenizer);
    return OK;
}

static void fill_policy_meta(const struct recording *r, struct profile_meta *m) {
    const struct policy *p = r->loaded->policy;
    m->policy = p->name;
    m->policy_parameters = str_text(&p->parameters);
    m->window = (uint32_t)p->base_window;
    m->sinks = (uint32_t)p->sinks;
    m->threshold = p->gated ? p->threshold : (double)NAN;
    m->score = p->scores == SCORE_SIGMOID ? PROFILE_SCORE_SIGMOID
               : p->scores == SCORE_REAL  ? PROFILE_SCORE_REAL
                                          : PROFILE_SCORE_NONE;
    m->score_min = p->score_min;
    m->score_max = p->score_max;
    m->has_gates = p->gated;
}

/* As given, with the documents that were chosen: a run of others is another run. */
static int name_corpora(const struct corpus_options_cli *o, struct meta_arrays *a, struct err *err) {
    struct str chosen = {0};
    if (o->document_every)
        str_printf(&chosen, " (documents %severy %u from 0)", o->document_rest ? "but " : "", o->document_every);
    int rc = chosen.failed || !(a->corpus_names = mem_alloc(o->n_corpora, sizeof *a->corpus_names, "corpora", err))
                 ? ERR_MEMORY
                 : OK;
    for (; rc == OK && a->n_corpora < o->n_corpora; a->n_corpora++) {
        struct str name = {0};
        str_printf(&name, "%s%s", o->corpora[a->n_corpora], str_text(&chosen));
        if (name.failed) {
            rc = err_memory(err, "corpora", 0);
            break;
        }
        a->corpus_names[a->n_corpora] = name.data;
    }
    str_free(&chosen);
    return rc;
}

static int fill_corpus_meta(const struct recording *r, struct profile_meta *m, struct meta_arrays *a, struct err *err) {
    size_t n = corpus_n_files(r->corpus);
    int rc = name_corpora(r->options, a, err);
    if (rc != OK)
        return rc;
    if (!(a->sources = mem_alloc(n, sizeof *a->sources, "corpus files", err)))
        return ERR_MEMORY;
    for (size_t i = 0; i < n; i++) {
        const struct corpus_file *file = corpus_file(r->corpus, i);
        a->sources[i] = (struct profile_source){file->name, file->hash, file->corpus};
    }
    m->n_corpora = r->options->n_corpora;
    m->corpus_names = (const char *const *)a->corpus_names;
    m->n_sources = n;
    m->sources = a->sources;
    if (m->record & PROFILE_RECORD_CLASSES) {
        m->n_classes = sizeof profile_class_names / sizeof *profile_class_names;
        m->class_names = profile_class_names;
    }
    return OK;
}

static int fill_distance_meta(struct profile_meta *m, struct meta_arrays *a, struct err *err) {
    size_t n = (size_t)distance_bins((int)m->max_length, NULL) + 1;
    if (!(m->record & PROFILE_RECORD_ATTENTION))
        return OK;
    if (!(a->edges = mem_alloc(n, sizeof *a->edges, "distance bins", err)) ||
        !(a->wide_edges = mem_alloc(n, sizeof *a->wide_edges, "distance bins", err)))
        return ERR_MEMORY;
    distance_bins((int)m->max_length, a->wide_edges);
    for (size_t i = 0; i < n; i++)
        a->edges[i] = (uint32_t)a->wide_edges[i];
    m->n_distance_edges = n;
    m->distance_edges = a->edges;
    return OK;
}

static int create_writer(struct recording *r, unsigned record, int max_length, const char *output, const char *command_line,
                         struct err *err) {
    const struct loaded *l = r->loaded;
    char host[256] = "", now[32];
    struct meta_arrays a = {0};
    struct profile_meta m = {.prefill = r->run->dense_prefill ? "dense" : "pruned",
                             .chunk = (uint32_t)policy_step(l->policy, 0, r->run->chunk),
                             .batch = (uint32_t)r->run->batch,
                             .max_length = (uint32_t)max_length,
                             .stride = (uint32_t)r->options->stride,
                             .limit = r->options->limit,
                             .record = record,
                             .shard = (uint32_t)r->options->shard,
                             .n_shards = (uint32_t)r->options->n_shards,
                             .seed = r->run->seed,
                             .dtype = l->dtype_name,
                             .backend = l->ops->name,
                             .program_version = cli_version,
                             .git_commit = cli_commit,
                             .command_line = command_line,
                             .time_start = now,
                             .host = host,
                             .cpu = l->ops->device_describe(l->dev),
                             .gpu = "",
                             .threads = (uint32_t)l->ops->device_threads(l->dev),
                             .library_versions = "{}"};
    struct profile_writer_options options = {.force = r->options->force, .resume = r->options->resume};
    gethostname(host, sizeof host - 1);
    clock_utc(now);
    int rc = fill_model_meta(r, &m, &a, err);
    fill_policy_meta(r, &m);
    if (rc == OK && (rc = fill_corpus_meta(r, &m, &a, err)) == OK && (rc = fill_distance_meta(&m, &a, err)) == OK)
        rc = profile_writer_create(output, &m, &options, &r->writer, err);
    free_meta_arrays(&a);
    return rc;
}

static int run_all(struct recording *r, int max_length, unsigned record, struct err *err) {
    struct source source = sequences_source(r->sequences);
    struct observer observer = {.self = r,
                                .on_gates = record_gates,
                                .on_sequence = record_sequence,
                                .on_batch = record_batch,
                                .want_attention = (record & PROFILE_RECORD_ATTENTION) != 0,
                                .want_oracle = (record & PROFILE_RECORD_ORACLE) != 0};
    struct run_options options = {
        .policy = r->loaded->policy, .batch = r->run->batch, .chunk = r->run->chunk, .max_len = max_length,
        .dense_prefill = r->run->dense_prefill, .shard = r->options->shard, .n_shards = r->options->n_shards,
        .batch_done = batch_done, .batch_done_self = r, .stop = cli_stop_flag(), .on_step = on_step, .on_step_self = r};
    progress_begin(&r->progress, "profile", "tok", 0, r->run->quiet);
    int rc = run_source(r->loaded->model, &source, &observer, &options, &r->result->totals, err);
    progress_end(&r->progress);
    return rc;
}

/* After a stop or a failure: what is finished stays for --resume; where nothing is, nothing is left. */
static void keep_finished(struct recording *r, const char *output) {
    struct err err = {0};
    struct str part = {0};
    str_printf(&part, "%s.part", output);
    bool empty = profile_writer_n_sequences(r->writer) == 0;
    if (!empty)
        profile_writer_flush(r->writer, &err);
    profile_writer_free(r->writer);
    r->writer = NULL;
    if (empty && !part.failed)
        file_remove_tree(part.data, &err);
    str_free(&part);
    cli_report(&err);
}

static int finish(struct recording *r, struct err *err) {
    struct sequence_counts counts = sequences_counts(r->sequences);
    struct profile_end end = {.n_sequences_total = counts.sequences, .n_dropped_tails = counts.dropped_tails};
    if (counts.sequences == 0)
        return err_set(err, ERR_INPUT, r->options->corpora[0], "the corpus holds no sequence of at least two tokens");
    r->result->n_skipped_files = corpus_n_skipped(r->corpus);
    r->result->n_dropped_tails = counts.dropped_tails;
    return profile_writer_finish(r->writer, &end, err);
}

int run_corpus(const struct run_options_cli *run, const struct corpus_options_cli *corpus, const struct loaded *loaded,
               unsigned record, const char *output, const char *command_line, struct corpus_result *result,
               struct err *err) {
    struct recording r = {.run = run, .options = corpus, .loaded = loaded, .result = result};
    int max_length = corpus_max_length(corpus, loaded), rc;
    uint64_t start = clock_us();
    *result = (struct corpus_result){0};
    for (size_t i = 0; i < corpus->n_corpora; i++)
        if ((rc = file_check_apart(output, corpus->corpora[i], err)) != OK)
            return rc;
    if ((rc = open_corpus(&r, err)) != OK)
        goto out;
    if (record & PROFILE_RECORD_CLASSES && (rc = token_classes_create(loaded->tokenizer, &r.classes, err)) != OK)
        goto out;
    if ((rc = create_writer(&r, record, max_length, output, command_line, err)) != OK)
        goto out;
    result->nothing_to_do = !r.writer;
    if (r.writer && (rc = run_all(&r, max_length, record, err)) == OK)
        rc = finish(&r, err);
    if (rc != OK && r.writer)
        keep_finished(&r, output);
out:
    result->seconds = (double)(clock_us() - start) * 1e-6;
    profile_writer_free(r.writer);
    token_classes_free(r.classes);
    sequences_free(r.sequences);
    corpus_close(r.corpus);
    free(r.class_of);
    return rc;
}
