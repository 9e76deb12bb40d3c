/* spkv merge: joins the shards of a run into one file. */
#include <stdlib.h>

#include "analyze/profile.h"
#include "cli/cli.h"

struct merge_options {
    const char *output;
    bool force, json;
    const char **paths; /* (n_paths), room for argc */
    size_t n_paths;
};

static const struct argp_option argp_options[] = {
    {"output", 'o', "FILE", 0, "the joined run file (required)", 0},
    {"force", 'f', NULL, 0, "replace FILE when it exists", 0},
    {"json", 'j', NULL, 0, "say the result as JSON", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct merge_options *o = state->input;
    switch (key) {
    case 'o': o->output = arg; break;
    case 'f': o->force = true; break;
    case 'j': o->json = true; break;
    case ARGP_KEY_ARG: o->paths[o->n_paths++] = arg; break;
    case ARGP_KEY_END:
        if (o->n_paths == 0)
            argp_error(state, "which shards are to be joined?");
        if (!o->output)
            argp_error(state, "where should the result go? (-o run.h5)");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static int print_result(const struct merge_options *o, struct err *err) {
    struct profile *p;
    int rc = profile_open(o->output, &p, err);
    if (rc != OK)
        return rc;
    size_t n = profile_n_sequences(p);
    profile_close(p);
    if (o->json)
        printf("{\"schema\": \"spkv-merge\", \"version\": 1, \"sequences\": %zu, \"parts\": %zu}\n", n, o->n_paths);
    else
        printf("%s: %zu sequences out of %zu parts\n", o->output, n, o->n_paths);
    return cli_finish_stdout(err);
}

int cmd_merge(int argc, char **argv) {
    static const struct argp argp = {argp_options,
                                     parse,
                                     "SHARD...",
                                     "Joins the shards of a run (profile --shard i/n) into one file, equal to the run that "
                                     "was never split. Every shard must be there once, with the same settings.",
                                     NULL,
                                     NULL,
                                     NULL};
    struct merge_options o = {.paths = calloc((size_t)argc, sizeof *o.paths)};
    struct err err = {0};
    if (!o.paths) {
        err_memory(&err, "options", (size_t)argc);
    } else {
        argp_parse(&argp, argc, argv, 0, NULL, &o);
        if (profile_merge(o.paths, o.n_paths, o.output, o.force, &err) == OK)
            print_result(&o, &err);
    }
    free(o.paths);
    return cli_report(&err);
}
