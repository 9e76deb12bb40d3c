/* spkv eval: tasks that people trust, under any policy and beside full attention. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/eval.h"
#include "cli/eval_means.h"
#include "datasets/row_file.h"

/* First match wins. */
static const struct eval_kind kinds[] = {
    {"choice", "questions with choices, by log-likelihood", eval_choice_takes, eval_choice_run},
    {"generate", "texts that are asked for", eval_generate_takes, eval_generate_run},
    {"rolling", "perplexity of texts", eval_rolling_takes, eval_rolling_run},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

enum { KEY_MAX_LENGTH = 0x700, KEY_STRIDE, KEY_LIMIT, KEY_SHOTS, KEY_SHOTS_FROM, KEY_SHOT_SAMPLER, KEY_SHOT_SEED, KEY_BOS,
       KEY_RESAMPLES, KEY_TRUNCATE, KEY_ALONE, KEY_RESUME, KEY_FORCE, KEY_CHAT };

static const struct argp_option argp_options[] = {
    {"output", 'o', "FILE", 0, "one line of JSON an item", 1},
    {"limit", KEY_LIMIT, "N", 0, "items of a task (all)", 1},
    {"alone", KEY_ALONE, NULL, 0, "do not run full attention beside the policy", 1},
    {"resamples", KEY_RESAMPLES, "N", 0, "of the items, for intervals (2000)", 1},
    {"resume", KEY_RESUME, NULL, 0, "go on with an interrupted evaluation, whose scores lie in FILE.part", 1},
    {"force", KEY_FORCE, NULL, 0, "replace an existing FILE", 1},
    {"max-length", KEY_MAX_LENGTH, "N", 0, "most tokens of a context, of a window (the model's limit)", 2},
    {"truncate", KEY_TRUNCATE, NULL, 0, "what is too long loses tokens from the left, as in lm-eval (refuse it)", 2},
    {"bos", KEY_BOS, "auto|yes|no", 0, "a start token before every text (auto: as the tokenizer's template says)", 2},
    {"chat", KEY_CHAT, "auto|off|FILE", 0,
     "generate: the chat template around a prompt (auto: the model's own; FILE: a text with {prompt} in it)", 3},
    {"stride", KEY_STRIDE, "N", 0, "rolling: windows that begin N tokens after each other (lm-eval's, end to end)", 3},
    {"shots", KEY_SHOTS, "N", 0, "examples before every question (0)", 4},
    {"shots-from", KEY_SHOTS_FROM, "FILE", 0, "choice: where they come from (the task's own file, less the question)", 4},
    {"shot-sampler", KEY_SHOT_SAMPLER, "random|first", 0, "choice: how (random; first for MMLU), both as in lm-eval", 4},
    {"shot-seed", KEY_SHOT_SEED, "N", 0, "choice: of the random ones (1234)", 4},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct eval_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = &o->run; break;
    case 'o': o->output = arg; break;
    case KEY_LIMIT: o->limit = (uint64_t)cli_parse_int(state, "limit", arg, 1, LLONG_MAX); break;
    case KEY_ALONE: o->alone = true; break;
    case KEY_RESAMPLES: o->n_resamples = (uint32_t)cli_parse_int(state, "resamples", arg, 1, 10000000); break;
    case KEY_RESUME: o->resume = true; break;
    case KEY_FORCE: o->force = true; break;
    case KEY_MAX_LENGTH: o->max_length = (int)cli_parse_int(state, "max-length", arg, 1, 1 << 24); break;
    case KEY_TRUNCATE: o->truncate = true; break;
    case KEY_BOS:
        cli_parse_choice(state, "bos", arg, "auto|yes|no");
        o->bos = arg[0] == 'a' ? BOS_AUTO : arg[0] == 'y' ? BOS_YES : BOS_NO;
        break;
    case KEY_CHAT: o->chat = arg; break;
    case KEY_STRIDE: o->stride = (int)cli_parse_int(state, "stride", arg, 1, 1 << 24); break;
    case KEY_SHOTS: o->n_shots = (int)cli_parse_int(state, "shots", arg, 0, 1000); break;
    case KEY_SHOTS_FROM: o->shots_from = arg; break;
    case KEY_SHOT_SAMPLER: o->shot_sampler = cli_parse_choice(state, "shot-sampler", arg, "random|first"); break;
    case KEY_SHOT_SEED: o->shot_seed = (uint64_t)cli_parse_int(state, "shot-seed", arg, 0, LLONG_MAX); break;
    case ARGP_KEY_ARG:
        if (!o->run.model)
            o->run.model = arg;
        else if (o->n_tasks == EVAL_MAX_TASKS)
            argp_error(state, "more than %d tasks", EVAL_MAX_TASKS);
        else
            o->tasks[o->n_tasks++] = arg;
        break;
    case ARGP_KEY_END:
        if (!o->run.model || o->n_tasks == 0)
            argp_error(state, "a MODEL directory and at least one TASK are needed");
        if (o->resume && !o->output)
            argp_error(state, "--resume: of which -o FILE?");
        if (o->shots_from && o->n_shots == 0)
            argp_error(state, "--shots-from: how many? (--shots N)");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* --- which task --- */

static const struct eval_kind *find_kind(const char *name, size_t n) {
    for (size_t i = 0; i < N_KINDS; i++)
        if (strlen(kinds[i].name) == n && memcmp(kinds[i].name, name, n) == 0)
            return &kinds[i];
    return NULL;
}

/* "KIND:" before a path: a kind of task, or of rows. Returns the path. */
static const char *take_kind(const char *argument, struct eval_task *task, struct err *err) {
    const char *colon = strchr(argument, ':');
    char name[32];
    if (!colon || file_exists(argument))
        return argument;
    if ((task->kind = find_kind(argument, (size_t)(colon - argument))))
        return colon + 1;
    snprintf(name, sizeof name, "%.*s", (int)(colon - argument), argument);
    if ((task->row_kind = row_kind_named(name)))
        return colon + 1;
    err_set(err, ERR_USAGE, argument, "there is no kind \"%s\" (kinds are choice, rolling, and those of rows such as arc, "
            "openbookqa, mmlu)", name);
    return NULL;
}

static void name_task(struct eval_task *task) {
    const char *base = file_basename(task->path);
    int n = (int)strcspn(base, ".");
    snprintf(task->name, sizeof task->name, "%.*s", n ? n : (int)strlen(base), base);
}

static bool is_jsonl(const char *path) {
    return strstr(file_basename(path), ".jsonl") != NULL;
}

/* What the user did not say is found by the first row. */
static int find_task(const char *argument, struct eval_task *task, struct err *err) {
    const struct row_fields no_fields = {0};
    struct row_file file = {0};
    char where[4096];
    int rc = OK;
    *task = (struct eval_task){0};
    if (!(task->path = take_kind(argument, task, err)))
        return ERR_USAGE;
    if (!*task->path)
        return err_set(err, ERR_USAGE, "", "TASK \"%s\" names no file", argument);
    name_task(task);
    if (is_jsonl(task->path) && (rc = row_file_read(task->path, 1, &file, err)) == OK && !task->row_kind) {
        row_file_where(&file, 0, where, sizeof where);
        rc = row_kind_find(file.rows[0], &no_fields, where, &task->row_kind, err);
    }
    for (size_t i = 0; rc == OK && !task->kind && i < N_KINDS; i++)
        if (kinds[i].takes(task->row_kind, file.n ? file.rows[0] : NULL))
            task->kind = &kinds[i];
    if (rc == OK && !task->kind)
        rc = err_set(err, ERR_INPUT, task->path, "rows of kind %s are no task (name one: KIND:FILE)",
                     task->row_kind ? row_kind_name(task->row_kind) : "text");
    row_file_free(&file);
    return rc;
}

/* --- the command --- */

static int run_task(struct evaluation *e, const struct eval_task *task, struct err *err) {
    size_t first = e->n_rows;
    struct eval_row *row = eval_next_row(e, task);
    uint64_t start = clock_us();
    progress_begin(&e->progress, task->name, "items", 0, e->options->run.quiet);
    e->n_done = 0;
    int rc = task->kind->run(e, task, row, err);
    progress_end(&e->progress);
    e->rows[first].seconds = (double)(clock_us() - start) * 1e-6;
    return rc;
}

/* What must be equal for scores to be reused. */
static json_t *settings_json(const struct evaluation *e, const struct eval_task *tasks) {
    const struct eval_options *o = e->options;
    json_t *files = json_array();
    char hash[33];
    for (size_t i = 0; i < o->n_tasks; i++)
        json_array_append_new(files, json_pack("[s, s?, s]", tasks[i].kind->name,
                                               tasks[i].row_kind ? row_kind_name(tasks[i].row_kind) : NULL,
                                               file_hash(tasks[i].path, hash, NULL) == OK ? hash : tasks[i].path));
    const char *from = o->shots_from && file_hash(o->shots_from, hash, NULL) == OK ? hash : NULL;
    return json_pack("{s:i, s:s, s:s, s:s, s:b, s:b, s:i, s:i, s:s, s:o, s:I, s:I, s:i, s:i, s:s?, s:s?, s:I, s:b, s:s}",
                     "spkv_eval_journal", 1, "model", checkpoint_model_hash(e->loaded.checkpoint), "policy",
                     str_text(&e->loaded.policy->parameters), "dtype", e->loaded.dtype_name, "dense_prefill",
                     o->run.dense_prefill, "alone", o->alone, "chunk", o->run.chunk, "batch", o->run.batch, "backend",
                     o->run.backend, "tasks", files, "limit", (json_int_t)o->limit, "max_length",
                     (json_int_t)e->encoder.max_length, "stride", o->stride, "shots", o->n_shots, "shots_from", from,
                     "shot_sampler", o->shot_sampler, "shot_seed", (json_int_t)o->shot_seed, "special_tokens",
                     e->encoder.add_special, "chat", o->chat);
}

static int open_output(struct evaluation *e, const struct eval_task *tasks, struct err *err) {
    const struct eval_options *o = e->options;
    struct str path = {0};
    json_t *settings = settings_json(e, tasks);
    str_printf(&path, "%s.part", o->output);
    int rc = !settings || path.failed ? err_set(err, ERR_MEMORY, "", "out of memory for a journal")
                                      : eval_journal_open(path.data, settings, o->resume, o->force, &e->journal, err);
    if (rc == OK)
        rc = file_out_open(&e->items, o->output, err);
    json_decref(settings);
    str_free(&path);
    return rc;
}

static int print(struct evaluation *e, const char *command, struct err *err) {
    if (e->options->run.json)
        eval_print_json(e, command);
    else
        eval_print_text(e);
    return cli_finish_stdout(err);
}

static int evaluate(struct evaluation *e, const char *command, struct err *err) {
    const struct eval_options *o = e->options;
    struct eval_task *tasks = mem_alloc(o->n_tasks, sizeof *tasks, "tasks", err);
    int rc = tasks ? OK : ERR_MEMORY;
    if (rc == OK && o->resume && file_exists(o->output)) {
        cli_note(o->run.quiet, "%s is complete already", o->output);
        free(tasks);
        return OK;
    }
    if (rc == OK && o->output)
        rc = file_check_free(o->output, o->force, err);
    for (size_t i = 0; rc == OK && i < o->n_tasks; i++)
        rc = find_task(o->tasks[i], &tasks[i], err);
    for (size_t i = 0; rc == OK && o->output && i < o->n_tasks; i++)
        rc = file_check_apart(o->output, tasks[i].path, err);
    if (rc == OK && o->output && o->shots_from)
        rc = file_check_apart(o->output, o->shots_from, err);
    if (rc == OK)
        rc = evaluation_open(e, err);
    if (rc == OK && o->output)
        rc = open_output(e, tasks, err);
    if (rc == OK && !(e->rows = mem_alloc(o->n_tasks * EVAL_ROWS_PER_TASK, sizeof *e->rows, "results", err)))
        rc = ERR_MEMORY;
    for (size_t i = 0; rc == OK && i < o->n_tasks; i++)
        rc = run_task(e, &tasks[i], err);
    if (rc == OK)
        rc = eval_ruler_finish(e, err);
    if (rc == OK && o->output)
        rc = file_out_commit(&e->items, err);
    if (rc == OK)
        rc = print(e, command, err);
    if (rc == ERR_INCOMPLETE && e->journal)
        cli_note(false, "what was scored lies in %s.part; the same command with --resume goes on from there", o->output);
    /* A file that is mended is another file, and options that are mended are others. */
    eval_journal_close(e->journal, rc == OK || rc == ERR_INPUT || rc == ERR_USAGE);
    evaluation_close(e);
    free(tasks);
    return rc;
}

int cmd_eval(int argc, char **argv) {
    static const struct argp_child children[] = {{&run_options_argp, 0, "Model and policy:", 5}, {0}};
    static const struct argp argp = {
        argp_options, parse, "MODEL TASK...",
        "Scores tasks under a policy and, beside it, under full attention of the same weights.\v"
        "A TASK is a file, FILE or KIND:FILE: questions with choices as .jsonl (ARC, HellaSwag, WinoGrande, BoolQ, MMLU, "
        "CommonsenseQA, PIQA, OpenBookQA in their authors' or the hub's form, or rows with prompt, choices, gold), "
        "samples_*.jsonl of lm-eval, rows to be answered by a text (RULER, GSM8K, or prompt and completion), or texts "
        "(.txt, .jsonl with text), whose perplexity is taken. The kind is found by "
        "the first row; openbookqa:FILE names it. Prompts, tokens and scores are those of lm-eval.",
        children, NULL, NULL};
    struct eval_options *o = calloc(1, sizeof *o);
    struct err err = {0};
    char *command = cli_command_line(argc, argv);
    if (!o || !command) {
        err_memory(&err, "options", sizeof *o);
    } else {
        o->run = run_options_default();
        o->shot_seed = 1234;
        o->chat = "auto";
        o->n_resamples = PAIRED_RESAMPLES;
        argp_parse(&argp, argc, argv, 0, NULL, o);
        evaluate(&(struct evaluation){.options = o, .stop = cli_stop_flag()}, command, &err);
    }
    free(command);
    free(o);
    return cli_report(&err);
}
