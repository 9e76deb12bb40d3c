/* cmd_tasks.c - spkv tasks: generated tasks as JSON Lines. */
#include <limits.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "cli/tasks_ruler.h"
#include "datasets/palindrome.h"
#include "datasets/recall.h"

enum { KEY_SEED = 0x100, KEY_KIND, KEY_ITEMS, KEY_FILLERS, KEY_DEPTH, KEY_QUERIES, KEY_WORDS, KEY_INSTRUCTION, KEY_TEXT,
       KEY_FORCE };

enum { NOT_GIVEN = -1 };

enum task { RECALL, PALINDROME, RULER, N_TASKS };
static const char *const TASKS[N_TASKS] = {"recall", "palindrome", "ruler"};

struct tasks_options {
    const char *name, *output;
    enum task task;
    long long n_rows;                     /* NOT_GIVEN: each task's own */
    struct recall_options recall;         /* seed and text are those of recall and palindrome */
    struct palindrome_options palindrome;
    struct tasks_ruler ruler;
    int n_items;                          /* NOT_GIVEN: each task's own */
    const char *of[N_TASKS];              /* an option that only this task has, when one was given */
    bool force;
};

static const struct argp_option argp_options[] = {
    {"count", 'n', "N", 0, "rows (100; ruler: 50 of every task)", 0},
    {"seed", KEY_SEED, "S", 0, "of everything random (0)", 0},
    {"items", KEY_ITEMS, "N", 0,
     "recall: facts, names, pairs or list entries in a row, 2 to 32 (8); palindrome: integers (32)", 0},
    {"text", KEY_TEXT, NULL, 0, "rows {\"text\"} that are scored as a whole, not {\"prompt\", \"completion\"}", 0},
    {"output", 'o', "FILE", 0, "write there instead of standard output", 0},
    {"force", KEY_FORCE, NULL, 0, "replace an existing FILE", 0},
    {NULL, 0, NULL, 0, "recall", 1},
    {"kind", KEY_KIND, "mixed|facts|names|copy|pairs|series|notes", 0,
     "what has to be remembered (mixed: facts, names, copy in turn)", 1},
    {"fillers", KEY_FILLERS, "N", 0, "sentences around the items (8)", 1},
    {"depth", KEY_DEPTH, "N", 0, "percent of them before the items; the others stand between items and question (0)", 1},
    {"queries", KEY_QUERIES, "N", 0,
     "facts, names, pairs, notes: items asked for in a row, at most all of them; the completion begins with the first "
     "answer (1)", 1},
    {"words", KEY_WORDS, "N", 0, "pairs, series: different words, and numbers, to draw from, 2 to 128 (128; 90 numbers)", 1},
    {NULL, 0, NULL, 0, "palindrome", 2},
    {"instruction", KEY_INSTRUCTION, "N", 0, "tokens between the integers and their reversal (50)", 2},
    {0},
};

static enum recall_kind parse_kind(const struct argp_state *state, const char *arg) {
    static const char *const names[] = {"mixed", "facts", "names", "copy", "pairs", "series", "notes"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(arg, names[i]) == 0)
            return (enum recall_kind)i;
    argp_error(state, "--kind: \"%s\" is not one of mixed, facts, names, copy, pairs, series, notes", arg);
    return RECALL_MIXED;
}

static void find_task(struct tasks_options *o, const struct argp_state *state) {
    if (!o->name)
        argp_error(state, "which task? (recall, palindrome, ruler)");
    while (o->task < N_TASKS && strcmp(o->name, TASKS[o->task]) != 0)
        o->task++;
    if (o->task == N_TASKS)
        argp_error(state, "\"%s\" is not a task (recall, palindrome, ruler)", o->name);
    for (enum task i = 0; i < N_TASKS; i++)
        if (i != o->task && o->of[i])
            argp_error(state, "--%s is no option of %s", o->of[i], o->name);
}

/* What can only be judged once the task is known. */
static void finish(struct tasks_options *o, const struct argp_state *state) {
    find_task(o, state);
    if (o->n_rows == NOT_GIVEN)
        o->n_rows = o->task == RULER ? 50 : 100;
    o->recall.n_rows = o->palindrome.n_rows = (uint64_t)o->n_rows;
    o->palindrome.seed = o->recall.seed;
    o->palindrome.plain_text = o->recall.plain_text;
    if (o->task == RULER && (o->n_items != NOT_GIVEN || o->recall.plain_text))
        argp_error(state, "--%s is no option of ruler", o->recall.plain_text ? "text" : "items");
    if (o->task == PALINDROME && (o->ruler.length || o->ruler.model || o->ruler.tokenizer))
        argp_error(state, "palindrome has no --length: say how many --items");
    if (o->task == RECALL && !o->ruler.length && (o->ruler.model || o->ruler.tokenizer))
        argp_error(state, "--model and --tokenizer count the tokens of --length N");
    if (o->n_items == NOT_GIVEN)
        return;
    if (o->task == RECALL && (o->n_items < RECALL_MIN_ITEMS || o->n_items > RECALL_MAX_ITEMS))
        argp_error(state, "--items: \"%d\" is not a whole number from %d to %d", o->n_items, RECALL_MIN_ITEMS,
                   RECALL_MAX_ITEMS);
    if (o->task == RECALL && o->recall.kind == RECALL_NOTES && o->n_items > RECALL_MAX_NOTES)
        argp_error(state, "--items: notes have %d subjects at most", RECALL_MAX_NOTES);
    o->recall.n_items = o->palindrome.n_items = o->n_items;
}

static void check_words(const struct recall_options *r, const struct argp_state *state) {
    if (r->n_words == 0)
        return;
    if (r->kind != RECALL_PAIRS && r->kind != RECALL_SERIES)
        argp_error(state, "--words is an option of pairs and series");
    if (r->n_words < r->n_items)
        argp_error(state, "--words: %d words are not enough for %d different items", r->n_words, r->n_items);
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct tasks_options *o = state->input;
    struct recall_options *r = &o->recall;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = &o->ruler; break;
    case 'n': o->n_rows = cli_parse_int(state, "count", arg, 1, LLONG_MAX); break;
    case KEY_SEED: r->seed = (uint64_t)cli_parse_int(state, "seed", arg, 0, LLONG_MAX); break;
    case KEY_ITEMS: o->n_items = (int)cli_parse_int(state, "items", arg, 1, PALINDROME_MAX_ITEMS); break;
    case KEY_TEXT: r->plain_text = true; break;
    case 'o': o->output = arg; break;
    case KEY_FORCE: o->force = true; break;
    case KEY_KIND:
        r->kind = parse_kind(state, arg);
        o->of[RECALL] = "kind";
        break;
    case KEY_FILLERS:
        r->n_fillers = (int)cli_parse_int(state, "fillers", arg, 0, RECALL_MAX_FILLERS);
        o->of[RECALL] = "fillers";
        break;
    case KEY_DEPTH:
        r->depth = (int)cli_parse_int(state, "depth", arg, 0, 100);
        o->of[RECALL] = "depth";
        break;
    case KEY_QUERIES:
        r->n_queries = (int)cli_parse_int(state, "queries", arg, 1, RECALL_MAX_ITEMS);
        o->of[RECALL] = "queries";
        break;
    case KEY_WORDS:
        r->n_words = (int)cli_parse_int(state, "words", arg, RECALL_MIN_ITEMS, RECALL_MAX_WORDS);
        o->of[RECALL] = "words";
        break;
    case KEY_INSTRUCTION:
        o->palindrome.n_instruction = (int)cli_parse_int(state, "instruction", arg, 0, PALINDROME_MAX_INSTRUCTION);
        o->of[PALINDROME] = "instruction";
        break;
    case ARGP_KEY_ARG:
        if (o->name)
            argp_error(state, "one task at a time");
        o->name = arg;
        break;
    case ARGP_KEY_END:
        o->of[RULER] = o->ruler.given;
        finish(o, state);
        check_words(&o->recall, state);
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static int write_recall(FILE *stream, const struct tasks_options *o, struct err *err) {
    struct recall_options recall = o->recall;
    struct tokenizer *tokenizer = NULL;
    int rc = o->ruler.length ? tasks_open_tokenizer(&o->ruler, &tokenizer, err) : OK;
    recall.length = o->ruler.length;
    recall.tokenizer = tokenizer;
    if (rc == OK)
        rc = recall_write(stream, &recall, err);
    tokenizer_free(tokenizer);
    return rc;
}

static int write_rows(FILE *stream, const struct tasks_options *o, struct err *err) {
    if (o->task == RULER)
        return tasks_ruler_write(stream, &o->ruler, (uint64_t)o->n_rows, o->recall.seed, err);
    return o->task == PALINDROME ? palindrome_write(stream, &o->palindrome, err) : write_recall(stream, o, err);
}

static int write_file(const struct tasks_options *o, struct err *err) {
    struct file_out out;
    int rc = file_check_free(o->output, o->force, err);
    if (rc != OK || (rc = file_out_open(&out, o->output, err)) != OK)
        return rc;
    rc = write_rows(out.stream, o, err);
    if (rc == OK)
        return file_out_commit(&out, err);
    file_out_discard(&out);
    return rc;
}

int cmd_tasks(int argc, char **argv) {
    static const struct argp_child children[] = {{&tasks_ruler_argp, 0, NULL, 3}, {0}};
    static const struct argp argp = {
        argp_options, parse, "recall|palindrome|ruler",
        "Writes generated tasks as JSON Lines, one row a line.\v"
        "recall: simple English in which the end of a row repeats something from its beginning: a fact (facts), a surname "
        "(names), a list (copy), or, in invented words, a number (pairs) or a list (series); notes ask for "
        "a word that only its subject has.\n"
        "palindrome: integers, an instruction, the integers in reverse order. Its tokenizer, one token for each, is that of "
        "datasets/palindrome.\n"
        "ruler: long texts with something to find, follow or count, after RULER, with its prompts and field names.\n"
        "The same options give the same bytes on every machine.", children, NULL, NULL};
    struct tasks_options options = {.n_rows = NOT_GIVEN, .recall = {.n_items = 8, .n_queries = 1, .n_fillers = 8},
                                    .palindrome = {.n_items = 32, .n_instruction = 50},
                                    .n_items = NOT_GIVEN};
    struct err err = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &options);
    if (options.output)
        write_file(&options, &err);
    else if (write_rows(stdout, &options, &err) == OK)
        cli_finish_stdout(&err);
    return cli_report(&err);
}
