/* cmd_tasks.c - spkv tasks: generated tasks as JSON Lines. */
#include <limits.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "datasets/recall.h"

enum { KEY_SEED = 0x100, KEY_KIND, KEY_ITEMS, KEY_FILLERS, KEY_TEXT, KEY_FORCE };

struct tasks_options {
    const char *name, *output;
    struct recall_options recall;
    bool force;
};

static const struct argp_option argp_options[] = {
    {"count", 'n', "N", 0, "rows (100)", 0},
    {"seed", KEY_SEED, "S", 0, "of everything random (0)", 0},
    {"kind", KEY_KIND, "mixed|facts|names|copy", 0, "what has to be remembered (mixed: the three in turn)", 0},
    {"items", KEY_ITEMS, "N", 0, "facts, names or list entries in a row, 2 to 32 (8)", 0},
    {"fillers", KEY_FILLERS, "N", 0, "sentences between them and the question (8)", 0},
    {"text", KEY_TEXT, NULL, 0, "rows {\"text\"} that are scored as a whole, not {\"prompt\", \"completion\"}", 0},
    {"output", 'o', "FILE", 0, "write there instead of standard output", 0},
    {"force", KEY_FORCE, NULL, 0, "replace an existing FILE", 0},
    {0},
};

static enum recall_kind parse_kind(const struct argp_state *state, const char *arg) {
    static const char *const names[] = {"mixed", "facts", "names", "copy"};
    for (int i = 0; i < 4; i++)
        if (strcmp(arg, names[i]) == 0)
            return (enum recall_kind)i;
    argp_error(state, "--kind: \"%s\" is not one of mixed, facts, names, copy", arg);
    return RECALL_MIXED;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct tasks_options *o = state->input;
    struct recall_options *r = &o->recall;
    switch (key) {
    case 'n': r->n_rows = (uint64_t)cli_parse_int(state, "count", arg, 1, LLONG_MAX); break;
    case KEY_SEED: r->seed = (uint64_t)cli_parse_int(state, "seed", arg, 0, LLONG_MAX); break;
    case KEY_KIND: r->kind = parse_kind(state, arg); break;
    case KEY_ITEMS: r->n_items = (int)cli_parse_int(state, "items", arg, RECALL_MIN_ITEMS, RECALL_MAX_ITEMS); break;
    case KEY_FILLERS: r->n_fillers = (int)cli_parse_int(state, "fillers", arg, 0, RECALL_MAX_FILLERS); break;
    case KEY_TEXT: r->plain_text = true; break;
    case 'o': o->output = arg; break;
    case KEY_FORCE: o->force = true; break;
    case ARGP_KEY_ARG:
        if (o->name)
            argp_error(state, "one task at a time");
        o->name = arg;
        break;
    case ARGP_KEY_END:
        if (!o->name)
            argp_error(state, "which task? (recall)");
        if (strcmp(o->name, "recall") != 0)
            argp_error(state, "\"%s\" is not a task (recall)", o->name);
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static int write_file(const struct tasks_options *o, struct err *err) {
    struct file_out out;
    int rc = file_check_free(o->output, o->force, err);
    if (rc != OK || (rc = file_out_open(&out, o->output, err)) != OK)
        return rc;
    rc = recall_write(out.stream, &o->recall, err);
    if (rc == OK)
        return file_out_commit(&out, err);
    file_out_discard(&out);
    return rc;
}

int cmd_tasks(int argc, char **argv) {
    static const struct argp argp = {
        argp_options, parse, "recall",
        "Writes generated tasks as JSON Lines, one row a line.\v"
        "recall: simple English in which the end of a row repeats something from its beginning: a fact (facts), a surname "
        "(names), a list (copy). The same options give the same bytes on every machine.", NULL, NULL, NULL};
    struct tasks_options options = {.recall = {.n_rows = 100, .n_items = 8, .n_fillers = 8}};
    struct err err = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &options);
    if (options.output)
        write_file(&options, &err);
    else if (recall_write(stdout, &options.recall, &err) == OK)
        cli_finish_stdout(&err);
    return cli_report(&err);
}
