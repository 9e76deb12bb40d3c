/* spkv bench: prefill and decode speed over context, batch and policy, as CSV rows with the share of what the machine can
 * do: the GEMM rate (512 x 2048 x 2048 through the same op) for prefill, the read bandwidth for decode, both measured
 * beside every run. Tokens are random: time depends on counts, not on content. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cli/cli.h"
#include "cli/roofline.h"
#include "cli/run_options.h"
#include "engine/session.h"

enum { MAX_LIST = 16, MAX_RUNS = 64, DECODE_STEPS = 16 };

struct int_list {
    int n, v[MAX_LIST];
};

struct bench_options {
    struct run_options_cli run;
    struct int_list contexts, batches;
    int n_policies, n_runs, n_steps;
    const char *policies[MAX_LIST];
    bool prefill, decode;
};

struct bench_row {
    const char *what, *policy;
    int batch, context, n_runs;
    double tok_per_s[MAX_RUNS], share[MAX_RUNS], peak[MAX_RUNS]; /* peak: GFLOP/s or GB/s measured beside the run */
    double kv_bytes;   /* live cache of the batch at the end */
};

enum { KEY_CONTEXT = 0x200, KEY_BATCHES, KEY_POLICIES, KEY_RUNS, KEY_STEPS, KEY_WHAT };

static const struct argp_option argp_options[] = {
    {"contexts", KEY_CONTEXT, "N,...", 0, "tokens per sequence (512,2048)", 1},
    {"batches", KEY_BATCHES, "N,...", 0, "sequences run together (1)", 1},
    {"policies", KEY_POLICIES, "P;P;...", 0, "policies, separated by semicolons (full, and spkv where there is a predictor)",
     1},
    {"runs", KEY_RUNS, "N", 0, "runs of each row, the first warm-up not counted (5)", 1},
    {"steps", KEY_STEPS, "N", 0, "decode steps timed in each run (16)", 1},
    {"what", KEY_WHAT, "prefill|decode|both", 0, "what to time (both)", 1},
    {0},
};

static struct int_list parse_list(const struct argp_state *state, const char *option, const char *arg) {
    struct int_list list = {0};
    char item[32];
    while (*arg && list.n < MAX_LIST) {
        size_t n = strcspn(arg, ",");
        snprintf(item, sizeof item, "%.*s", (int)n, arg);
        list.v[list.n++] = (int)cli_parse_int(state, option, item, 1, 1 << 24);
        arg += n + (arg[n] == ',');
    }
    return list;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct bench_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = &o->run; break;
    case KEY_CONTEXT: o->contexts = parse_list(state, "contexts", arg); break;
    case KEY_BATCHES: o->batches = parse_list(state, "batches", arg); break;
    case KEY_POLICIES:
        for (char *save, *p = strtok_r(arg, ";", &save); p && o->n_policies < MAX_LIST; p = strtok_r(NULL, ";", &save))
            o->policies[o->n_policies++] = p;
        break;
    case KEY_RUNS: o->n_runs = (int)cli_parse_int(state, "runs", arg, 1, MAX_RUNS); break;
    case KEY_STEPS: o->n_steps = (int)cli_parse_int(state, "steps", arg, 1, 4096); break;
    case KEY_WHAT:
        o->prefill = strcmp(arg, "decode") != 0;
        o->decode = strcmp(arg, "prefill") != 0;
        break;
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

/* Feeds n random tokens to every slot, in chunks; with targets the losses are computed too. */
static int feed_random(const struct loaded *l, struct session *s, int batch, int n, int chunk, bool nll, struct err *err) {
    size_t rows = (size_t)batch * (size_t)chunk;
    int32_t *ids = mem_alloc(rows, sizeof *ids, "tokens", err), *target = mem_alloc(rows, sizeof *target, "tokens", err);
    float *loss = mem_alloc(rows, sizeof *loss, "losses", err);
    int *slots = mem_alloc((size_t)batch, sizeof *slots, "slots", err),
        *counts = mem_alloc((size_t)batch, sizeof *counts, "slots", err);
    const int32_t **tokens = mem_alloc((size_t)batch, sizeof *tokens, "slots", err);
    int rc = ids && target && loss && slots && counts && tokens ? OK : ERR_MEMORY;
    for (int at = 0, step; at < n && rc == OK; at += step) {
        step = policy_step(l->policy, session_length(s, 0), n - at < chunk ? n - at : chunk);
        for (int i = 0; i < batch; i++) {
            slots[i] = i;
            counts[i] = step;
            tokens[i] = ids + (size_t)i * (size_t)step;
            for (int j = 0; j < step; j++)
                ids[i * step + j] = target[i * step + j] =
                    (int32_t)(rng_uniform(7, (uint64_t)i, 0, 0, (uint32_t)(at + j)) * (float)l->model->config->vocab_size);
        }
        rc = session_feed(s, &(struct feed){batch, slots, tokens, counts}, err);
        if (rc == OK && nll)
            rc = session_nll(s, target, loss, NULL, err);
    }
    free(ids);
    free(target);
    free(loss);
    free(slots);
    free(counts);
    free(tokens);
    return rc;
}

/* One decode step: samples greedily and feeds what was drawn. */
static int decode_step(struct session *s, int batch, int32_t *ids, struct err *err) {
    int slots[4096], counts[4096];
    const int32_t *tokens[4096];
    int rc = session_sample(s, &(struct sampling){.top_p = 1}, ids, err);
    for (int i = 0; i < batch; i++) {
        slots[i] = i;
        counts[i] = 1;
        tokens[i] = ids + i;
    }
    return rc == OK ? session_feed(s, &(struct feed){batch, slots, tokens, counts}, err) : rc;
}

/* Sums over the batch: live cache bytes and query-key pairs attended. */
static int read_cache(const struct loaded *l, struct session *s, int batch, double *bytes, double *pairs, struct err *err) {
    size_t lanes = (size_t)l->model->config->n_layers * (size_t)l->model->config->n_kv_heads;
    uint64_t *visible = mem_alloc(lanes, sizeof *visible, "counters", err);
    int rc = visible ? OK : ERR_MEMORY;
    *bytes = *pairs = 0;
    for (int i = 0; i < batch && rc == OK; i++) {
        struct kv_counts counts = {.visible_pairs = visible};
        rc = kv_cache_read_counts(session_cache(s), i, &counts, err);
        *bytes += (double)counts.used_bytes;
        for (size_t j = 0; j < lanes; j++)
            *pairs += (double)visible[j];
    }
    free(visible);
    return rc;
}

/* Multiplications and additions of a prefill: weights once per token, and the attention over what was visible. */
static double prefill_flop(const struct loaded *l, double n_tok, double pairs) {
    const struct model_config *c = l->model->config;
    double element = strcmp(l->dtype_name, "bf16") == 0 ? 2 : 4;
    return 2 * n_tok * (double)l->model->weight_bytes / element + 4.0 * pairs * c->head_dim * c->n_heads / c->n_kv_heads;
}

static int run_prefill(const struct loaded *l, const struct bench_options *o, struct roofline *roof, struct session *s,
                       struct bench_row *row, int run, struct err *err) {
    double pairs, peak = roofline_gemm(roof, err);
    for (int i = 0; i < row->batch; i++)
        session_reset(s, i, (uint64_t)i);
    uint64_t start = clock_us();
    int rc = feed_random(l, s, row->batch, row->context, o->run.chunk, true, err);
    double seconds = (double)(clock_us() - start) * 1e-6, n_tok = (double)row->batch * row->context;
    if (rc != OK || (rc = read_cache(l, s, row->batch, &row->kv_bytes, &pairs, err)) != OK || run < 0)
        return rc;
    row->tok_per_s[run] = n_tok / seconds;
    row->peak[run] = peak;
    row->share[run] = prefill_flop(l, n_tok, pairs) / seconds * 1e-9 / peak;
    return OK;
}

/* The cache is filled once, before the first run; every run then decodes n_steps more tokens. */
static int run_decode(const struct loaded *l, const struct bench_options *o, struct roofline *roof, struct session *s,
                      struct bench_row *row, int run, struct err *err) {
    double pairs, peak = roofline_read(roof, err);
    int rc = OK;
    int32_t *ids = mem_alloc((size_t)row->batch, sizeof *ids, "tokens", err);
    if (!ids)
        return ERR_MEMORY;
    if (run < 0) {
        for (int i = 0; i < row->batch; i++)
            session_reset(s, i, (uint64_t)i);
        rc = feed_random(l, s, row->batch, row->context, o->run.chunk, false, err);
    }
    uint64_t start = clock_us();
    for (int i = 0; i < o->n_steps && rc == OK; i++)
        rc = decode_step(s, row->batch, ids, err);
    if (rc == OK)
        rc = l->ops->sync(l->dev, err);
    double seconds = (double)(clock_us() - start) * 1e-6 / o->n_steps;
    free(ids);
    if (rc != OK || (rc = read_cache(l, s, row->batch, &row->kv_bytes, &pairs, err)) != OK || run < 0)
        return rc;
    row->tok_per_s[run] = row->batch / seconds;
    row->peak[run] = peak;
    row->share[run] = ((double)l->model->weight_bytes + row->kv_bytes) / seconds * 1e-9 / peak;
    return OK;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts, so call it last. */
static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, compare_doubles);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static void print_row(const struct loaded *l, const struct bench_options *o, struct bench_row *row, const char *command) {
    char host[64] = "?";
    gethostname(host, sizeof host - 1);
    double tok = median(row->tok_per_s, row->n_runs), share = median(row->share, row->n_runs),
           peak = median(row->peak, row->n_runs);
    printf("%s,\"%s\",%d,%d,%d,%s,%d,%d,%.2f,%.2f,%.3f,%.1f,%s,%.0f,%s,%s,\"%s\",\"%s\"\n", row->what, row->policy,
           row->batch, row->context, o->run.chunk, l->dtype_name, l->ops->device_threads(l->dev), row->n_runs, tok,
           row->tok_per_s[0], share, peak, strcmp(row->what, "prefill") == 0 ? "gemm_gflop_per_s" : "read_gb_per_s",
           row->kv_bytes, l->ops->name, cli_commit, l->ops->device_describe(l->dev), command);
    fflush(stdout);
}

typedef int run_function(const struct loaded *, const struct bench_options *, struct roofline *, struct session *,
                         struct bench_row *, int, struct err *);

static int bench_one(const struct loaded *l, const struct bench_options *o, struct roofline *roof,
                     const struct policy *policy, struct bench_row *row, run_function *function, struct err *err) {
    int max_len = row->context + (o->n_runs + 2) * o->n_steps, limit = l->model->config->max_positions;
    struct session_options options = {.n_slots = row->batch, .max_len = max_len < limit ? max_len : limit, .policy = policy,
                                      .max_rows = (size_t)row->batch * (size_t)o->run.chunk};
    struct session *s = NULL;
    int rc = session_create(l->model, &options, &s, err);
    for (int run = -1; run < o->n_runs && rc == OK; run++)
        rc = function(l, o, roof, s, row, run, err);
    session_free(s);
    return rc;
}

static int bench_all(const struct loaded *l, const struct bench_options *o, struct roofline *roof, const char *command,
                     struct err *err) {
    static const struct {
        const char *name;
        run_function *function;
    } kinds[] = {{"prefill", run_prefill}, {"decode", run_decode}};
    int rc = OK;
    puts("what,policy,batch,context_tok,chunk_tok,dtype,threads,runs,median_tok_per_s,min_tok_per_s,share_of_peak,peak,peak_"
         "unit,"
         "kv_bytes,backend,commit,machine,command");
    for (int p = 0; p < o->n_policies && rc == OK; p++) {
        struct policy *policy;
        if ((rc = loaded_policy(l, &o->run, o->policies[p], &policy, err)) != OK)
            break;
        for (int c = 0; c < o->contexts.n; c++)
            for (int b = 0; b < o->batches.n; b++)
                for (int k = 0; k < 2 && rc == OK; k++) {
                    struct bench_row row = {.what = kinds[k].name, .policy = o->policies[p], .batch = o->batches.v[b],
                                            .context = o->contexts.v[c], .n_runs = o->n_runs};
                    if (!(k == 0 ? o->prefill : o->decode))
                        continue;
                    if ((rc = bench_one(l, o, roof, policy, &row, kinds[k].function, err)) == OK)
                        print_row(l, o, &row, command);
                }
        policy_free(policy);
    }
    return rc;
}

int cmd_bench(int argc, char **argv) {
    static const struct argp_child children[] = {{&run_options_argp, 0, "Model and policy:", 5}, {0}};
    static const struct argp argp = {argp_options,
                                     parse,
                                     "MODEL",
                                     "Prefill (losses included) and decode speed over context, batch and policy: CSV with "
                                     "medians and the share of the GEMM rate "
                                     "or read bandwidth measured in the same run.",
                                     children,
                                     NULL,
                                     NULL};
    struct bench_options o = {.run = run_options_default(), .contexts = {2, {512, 2048}}, .batches = {1, {1}}, .n_runs = 5,
                              .n_steps = DECODE_STEPS, .prefill = true, .decode = true};
    struct loaded l;
    struct roofline roof = {0};
    struct err err = {0};
    char *command = cli_command_line(argc, argv);
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    int rc = loaded_open(&o.run, false, &l, &err);
    if (rc == OK && o.n_policies == 0) {
        o.policies[o.n_policies++] = "full";
        if (l.model->predictor)
            o.policies[o.n_policies++] = "spkv";
    }
    if (rc == OK && (rc = roofline_open(&roof, l.ops, l.dev, &err)) == OK)
        rc = bench_all(&l, &o, &roof, command ? command : "", &err);
    if (rc == OK)
        cli_finish_stdout(&err);
    roofline_close(&roof);
    loaded_close(&l);
    free(command);
    return cli_report(&err);
}
