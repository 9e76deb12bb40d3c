/* spkv report: everything there is to see of run files and of logs of training, in a directory. */
#include <stdlib.h>

#include "analyze/profile.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"
#include "reports/report.h"

struct report_arguments {
    char **paths; /* (n_paths), of argv */
    size_t n_paths;
    const char *dir;
    bool force, quiet;
};

enum { KEY_FORCE = 0x100, KEY_QUIET };

static const struct argp_option argp_options[] = {
    {"output", 'o', "DIR", 0, "the directory to make (required)", 0},
    {"force", KEY_FORCE, NULL, 0, "replace an earlier report in DIR", 0},
    {"quiet", KEY_QUIET, NULL, 0, "no remarks", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct report_arguments *a = state->input;
    switch (key) {
    case 'o': a->dir = arg; break;
    case KEY_FORCE: a->force = true; break;
    case KEY_QUIET: a->quiet = true; break;
    case ARGP_KEY_ARGS:
        a->paths = state->argv + state->next;
        a->n_paths = (size_t)(state->argc - state->next);
        break;
    case ARGP_KEY_NO_ARGS: argp_error(state, "which run file?"); break;
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
    "RUN.h5|TRAINING...",
    "Write a report of one or more runs: a page that is complete in itself, heatmaps, figures and tables. A directory that "
    "spkv train wrote, or its log.csv, is drawn as curves.\v"
    "DIR/index.html holds everything in one file and needs no network; beside it lie the heatmaps (PNG), the figures (PNG, "
    "SVG, their "
    "data and gnuplot scripts) and the tables (CSV). Several runs are shown one after the other, with their differences "
    "from the "
    "first.\nDIR must not exist; --force replaces an earlier report as a whole, and nothing else. Without gnuplot the "
    "figures are left out.",
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
    struct training_log **logs;
    size_t n_profiles, n_logs;
};

static int open_and_write(const struct report_arguments *a, struct opened *in, struct err *err) {
    struct str version = {0};
    str_printf(&version, " %s (%s)", cli_version, cli_commit);
    struct report_options options = {.dir = a->dir,
                                     .force = a->force,
                                     .version = str_text(&version),
                                     .note = note,
                                     .self = (void *)(uintptr_t)a};
    int rc = OK;
    for (size_t i = 0; rc == OK && i < a->n_paths; i++) {
        if (training_log_is(a->paths[i]))
            rc = training_log_read(a->paths[i], &in->logs[in->n_logs++], err);
        else if ((rc = cli_check_run_path(a->paths[i], err)) == OK)
            rc = profile_open(a->paths[i], &in->profiles[in->n_profiles++], err);
    }
    if (rc == OK)
        rc = report_write(&(struct report_input){in->profiles, in->n_profiles, in->logs, in->n_logs}, &options, err);
    str_free(&version);
    return rc;
}

int cmd_report(int argc, char **argv) {
    struct report_arguments a = {0};
    struct err err = {0};
    argp_parse(&parser, argc, argv, 0, NULL, &a);
    struct opened in = {.profiles = mem_alloc(a.n_paths, sizeof *in.profiles, "runs", &err)};
    if (in.profiles && (in.logs = mem_alloc(a.n_paths, sizeof *in.logs, "logs", &err)) &&
        open_and_write(&a, &in, &err) == OK) {
        printf("%s/index.html\n", a.dir);
        cli_finish_stdout(&err);
    }
    for (size_t i = 0; i < in.n_profiles; i++)
        profile_close(in.profiles[i]);
    for (size_t i = 0; i < in.n_logs; i++)
        training_log_free(in.logs[i]);
    free(in.profiles);
    free(in.logs);
    return cli_report(&err);
}
