/* spkv report: everything there is to see of run files, logs of training, layouts and tables, in a directory. */
#include <stdlib.h>

#include "analyze/profile.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/token_names.h"
#include "reports/report.h"

enum { KEY_FORCE = 0x100, KEY_QUIET, KEY_SEQUENCE, KEY_TOKENIZER, MAX_SEQUENCES = 64 };

struct report_arguments {
    char **paths; /* (n_paths), of argv */
    size_t n_paths;
    const char *dir, *tokenizer;
    uint64_t sequences[MAX_SEQUENCES];
    size_t n_sequences;
    bool force, quiet;
};

static const struct argp_option argp_options[] = {
    {"output", 'o', "DIR", 0, "the directory to make (required)", 0},
    {"force", KEY_FORCE, NULL, 0, "replace an earlier report in DIR", 0},
    {"sequence", KEY_SEQUENCE, "N", 0,
     "draw the tokens of sequence N where tokens were recorded (the first of the run); may be repeated", 0},
    {"tokenizer", KEY_TOKENIZER, "FILE", 0, "tokenizer.json of the model, or its directory, when the model has moved", 0},
    {"quiet", KEY_QUIET, NULL, 0, "no remarks", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct report_arguments *a = state->input;
    switch (key) {
    case 'o': a->dir = arg; break;
    case KEY_FORCE: a->force = true; break;
    case KEY_QUIET: a->quiet = true; break;
    case KEY_TOKENIZER: a->tokenizer = arg; break;
    case KEY_SEQUENCE:
        if (a->n_sequences == MAX_SEQUENCES)
            argp_error(state, "more than %d --sequence", MAX_SEQUENCES);
        a->sequences[a->n_sequences++] = (uint64_t)cli_parse_int(state, "sequence", arg, 0, INT64_MAX);
        break;
    case ARGP_KEY_ARGS:
        a->paths = state->argv + state->next;
        a->n_paths = (size_t)(state->argc - state->next);
        break;
    case ARGP_KEY_NO_ARGS: argp_error(state, "a report of what?"); break;
    case ARGP_KEY_END:
        if (!a->dir || !*a->dir)
            argp_error(state, "where to? (-o DIR)");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp parser = {
    argp_options,
    parse,
    "RUN.h5|TRAINING|LAYOUT.json|TABLE.csv...",
    "Write a report: a page that is complete in itself, heatmaps, figures and tables. Of runs; of a directory that spkv "
    "train wrote, or its log.csv, as curves; of layouts, of the table of spkv compare or spkv verify or the directory that "
    "they made, beside each other.\v"
    "DIR/index.html holds everything in one file and needs no network; beside it lie the heatmaps (PNG, SVG), the figures "
    "(PNG, SVG, their data and gnuplot scripts) and the tables (CSV). Several runs are shown one after the other, with "
    "their differences from the first.\nDIR must not exist; --force replaces an earlier report as a whole, and nothing "
    "else. Without gnuplot the figures are left out.",
    NULL,
    NULL,
    NULL};

static void note(void *self, const char *text) {
    const struct report_arguments *a = self;
    cli_note(a->quiet, "%s", text);
}

/* What was opened of the arguments; room for all of them as either. */
struct opened {
    struct profile **profiles;
    struct token_names *names; /* of each profile */
    struct token_text *texts;
    struct training_log **logs;
    size_t n_profiles, n_logs;
    struct candidates candidates;
};

static int open_run(const struct report_arguments *a, struct opened *in, const char *path, struct err *err) {
    size_t i = in->n_profiles;
    int rc = profile_open(path, &in->profiles[i], err);
    if (rc != OK)
        return rc;
    in->n_profiles++;
    rc = token_names_open(in->profiles[i], a->tokenizer, &in->names[i], err);
    in->texts[i] = in->names[i].text;
    return rc;
}

static int open_and_write(const struct report_arguments *a, struct opened *in, struct err *err) {
    struct str version = {0};
    str_printf(&version, " %s (%s)", cli_version, cli_commit);
    struct report_options options = {.dir = a->dir,
                                     .force = a->force,
                                     .sequences = a->sequences,
                                     .n_sequences = a->n_sequences,
                                     .version = str_text(&version),
                                     .note = note,
                                     .self = (void *)(uintptr_t)a};
    int rc = OK;
    for (size_t i = 0; rc == OK && i < a->n_paths; i++) {
        if (candidates_is_layout(a->paths[i]))
            rc = candidates_add_layout(&in->candidates, a->paths[i], err);
        else if (candidates_is_table(a->paths[i]))
            rc = candidates_add_table(&in->candidates, a->paths[i], err);
        else if (candidates_is_directory(a->paths[i]))
            rc = candidates_add_directory(&in->candidates, a->paths[i], err);
        else if (training_log_is(a->paths[i]))
            rc = training_log_read(a->paths[i], &in->logs[in->n_logs++], err);
        else if ((rc = cli_check_run_path(a->paths[i], err)) == OK)
            rc = open_run(a, in, a->paths[i], err);
    }
    if (rc == OK)
        rc = report_write(&(struct report_input){.profiles = in->profiles,
                                                .n_profiles = in->n_profiles,
                                                .texts = in->texts,
                                                .logs = in->logs,
                                                .n_logs = in->n_logs,
                                                .candidates = in->candidates.n ? &in->candidates : NULL},
                          &options, err);
    str_free(&version);
    return rc;
}

int cmd_report(int argc, char **argv) {
    struct report_arguments a = {0};
    struct err err = {0};
    argp_parse(&parser, argc, argv, 0, NULL, &a);
    struct opened in = {.profiles = mem_alloc(a.n_paths, sizeof *in.profiles, "runs", &err)};
    if (in.profiles && (in.names = mem_alloc(a.n_paths, sizeof *in.names, "runs", &err)) &&
        (in.texts = mem_alloc(a.n_paths, sizeof *in.texts, "runs", &err)) &&
        (in.logs = mem_alloc(a.n_paths, sizeof *in.logs, "logs", &err)) && open_and_write(&a, &in, &err) == OK) {
        printf("%s/index.html\n", a.dir);
        cli_finish_stdout(&err);
    }
    for (size_t i = 0; i < in.n_profiles; i++) {
        token_names_close(&in.names[i]);
        profile_close(in.profiles[i]);
    }
    for (size_t i = 0; i < in.n_logs; i++)
        training_log_free(in.logs[i]);
    candidates_free(&in.candidates);
    free(in.profiles);
    free(in.names);
    free(in.texts);
    free(in.logs);
    return cli_report(&err);
}
