/* spkv check: verifies run files, and saves what is left of an interrupted run. */
#include <jansson.h>
#include <stdlib.h>

#include "analyze/profile.h"
#include "base/file.h"
#include "cli/cli.h"

struct check_options {
    const char *recover;
    bool force, json;
    const char **paths; /* (n_paths), room for argc */
    size_t n_paths;
};

static const struct argp_option argp_options[] = {
    {"recover", 'r', "FILE", 0, "write the readable segments of an interrupted run (NAME.part) as one partial file", 0},
    {"force", 'f', NULL, 0, "replace FILE when it exists", 0},
    {"json", 'j', NULL, 0, "say the result as JSON", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct check_options *o = state->input;
    switch (key) {
    case 'r': o->recover = arg; break;
    case 'f': o->force = true; break;
    case 'j': o->json = true; break;
    case ARGP_KEY_ARG: o->paths[o->n_paths++] = arg; break;
    case ARGP_KEY_END:
        if (o->n_paths == 0)
            argp_error(state, "which run file is to be checked?");
        if (o->recover && o->n_paths != 1)
            argp_error(state, "--recover takes one NAME.part");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* Problems go to standard output: they are the result. */
static void print_line(void *self, const char *text) {
    (void)self;
    printf("%s\n", text);
}

static void collect_line(void *self, const char *text) {
    json_array_append_new(self, json_string(text));
}

static int check_one(const char *path, bool json, json_t *problems, size_t *n_total, struct err *err) {
    size_t n = 0;
    int rc = profile_check(path, json ? collect_line : print_line, problems, &n, err);
    if (rc == OK && !json)
        printf("%s: %s\n", path, n ? "has problems" : "sound");
    *n_total += n;
    return rc;
}

static int recover(const struct check_options *o, json_t *problems, struct err *err) {
    int rc = profile_recover(o->paths[0], o->recover, o->force, o->json ? collect_line : print_line, problems, err);
    if (rc == OK && !o->json)
        printf("%s: written with complete = 0\n", o->recover);
    return rc;
}

static int run(const struct check_options *o, struct err *err) {
    json_t *problems = json_array();
    size_t n = 0;
    int rc = OK;
    if (o->recover)
        rc = recover(o, problems, err);
    for (size_t i = 0; rc == OK && !o->recover && i < o->n_paths; i++)
        rc = check_one(o->paths[i], o->json, problems, &n, err);
    if (rc == OK && o->json) {
        json_t *root = json_pack("{s:s, s:i, s:I, s:O}", "schema", "spkv-check", "version", 1, "n_problems", (json_int_t)n,
                                 "problems", problems);
        json_dumpf(root, stdout, JSON_INDENT(1));
        putchar('\n');
        json_decref(root);
    }
    json_decref(problems);
    if (rc == OK)
        rc = cli_finish_stdout(err);
    if (rc == OK && n > 0)
        rc = err_set(err, ERR_INPUT, o->n_paths == 1 ? o->paths[0] : "", "%zu problem%s found%s", n, n == 1 ? "" : "s",
                     file_is_dir(o->paths[0]) ? " (--recover FILE saves what is readable)" : "");
    return rc;
}

int cmd_check(int argc, char **argv) {
    static const struct argp argp = {argp_options,
                                     parse,
                                     "RUN...",
                                     "Verifies run files (or NAME.part of an interrupted run): format, checksums of all "
                                     "data, and that the counters agree with each other. Exit status 3 when problems were "
                                     "found.",
                                     NULL,
                                     NULL,
                                     NULL};
    struct check_options o = {.paths = calloc((size_t)argc, sizeof *o.paths)};
    struct err err = {0};
    if (!o.paths) {
        err_memory(&err, "options", (size_t)argc);
    } else {
        argp_parse(&argp, argc, argv, 0, NULL, &o);
        run(&o, &err);
    }
    free(o.paths);
    return cli_report(&err);
}
