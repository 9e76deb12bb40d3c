/* spkv show: a run file in the terminal. */
#include <jansson.h>
#include <string.h>

#include "analyze/profile.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/head_difference.h"
#include "cli/token_names.h"
#include "reports/terminal.h"
#include "reports/token_table.h"

struct show_options {
    const char *path, *other; /* other: what it is compared with, NULL = nothing */
    const char *tokenizer;
    bool json, map;
    const char *quantity; /* of the map, NULL = the first */
    size_t n_top, n_tokens; /* n_tokens 0: no list of tokens */
};

enum { KEY_JSON = 0x100, KEY_HEATMAP, KEY_TOP, KEY_TOKENS, KEY_TOKENIZER, N_TOKENS = 10 };

static const struct argp_option argp_options[] = {
    {"json", KEY_JSON, NULL, 0, "the same numbers as one JSON object", 0},
    {"heatmap", KEY_HEATMAP, "NAME", OPTION_ARG_OPTIONAL,
     "draw the map of layers and KV heads even where there is no colour: of density, or of far_attention, sink_attention, "
     "read_fraction, gate_density, mean_utility", 0},
    {"top", KEY_TOP, "N", 0, "of two: how many of the largest heads are compared (a quarter)", 0},
    {"tokens", KEY_TOKENS, "N", OPTION_ARG_OPTIONAL,
     "only the N tokens (10) that heads keep most and least, with an example of each in its text; needs a run with --record "
     "tokens,open", 0},
    {"tokenizer", KEY_TOKENIZER, "FILE", 0, "tokenizer.json of the model, or its directory, when the model has moved", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct show_options *o = state->input;
    switch (key) {
    case KEY_JSON: o->json = true; break;
    case KEY_HEATMAP:
        o->map = true;
        o->quantity = arg;
        break;
    case ARGP_KEY_ARG:
        if (o->other)
            argp_error(state, "one run file, or two to compare");
        *(o->path ? &o->other : &o->path) = arg;
        break;
    case KEY_TOP: o->n_top = (size_t)cli_parse_int(state, "top", arg, 1, INT32_MAX); break;
    case KEY_TOKENS: o->n_tokens = arg ? (size_t)cli_parse_int(state, "tokens", arg, 1, 100000) : N_TOKENS; break;
    case KEY_TOKENIZER: o->tokenizer = arg; break;
    case ARGP_KEY_NO_ARGS: argp_error(state, "which run file?"); break;
    case ARGP_KEY_END:
        if (o->n_tokens && (o->other || o->json))
            argp_error(state, "--tokens is about one run, and for people (programs read most_kept_tokens.csv of a report)");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp parser = {argp_options,
                                   parse,
                                   "RUN.h5 [OTHER]",
                                   "Show what a run recorded: loss, densities by layer and head, cache bytes. Of two: how "
                                   "their heads differ (OTHER may be a layout or a pattern of another tool too).\v"
                                   "RUN.h5.part, the directory of a run that is going on or was interrupted, is shown as "
                                   "far as it is closed. With colour (a "
                                   "terminal, TERM not dumb, NO_COLOR not set) the map of layers and KV heads is drawn too.",
                                   NULL,
                                   NULL,
                                   NULL};

static int print_json(const struct run *run, struct err *err) {
    json_t *root = terminal_json(run);
    if (!root)
        return err_memory(err, "the JSON object", 0);
    json_dumpf(root, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(root);
    return OK;
}

/* The quantity of that name (NULL: the first), or an error that says which there are. */
static int find_quantity(const struct run *run, const char *name, const struct run_quantity **out, struct err *err) {
    const struct run_quantity *q[RUN_MAX_MAPS];
    size_t n = run_quantities(run, q);
    struct str names = {0};
    *out = NULL;
    for (size_t i = 0; name && i < n; i++) {
        if (strcmp(q[i]->name, name) == 0)
            *out = q[i];
        str_printf(&names, "%s%s", i ? ", " : "", q[i]->name);
    }
    int rc = !name || *out ? OK : err_set(err, ERR_INPUT, run->path, "no \"%s\" was recorded; --heatmap= one of: %s", name,
                                          n ? str_text(&names) : "nothing");
    str_free(&names);
    return rc;
}

static int print_text(const struct run *run, const struct show_options *o, struct err *err) {
    struct str text = {0};
    bool color = cli_color(stdout);
    struct terminal_options options = {.color = color,
                                       .truecolor = color && cli_truecolor(),
                                       .map = o->map || color,
                                       .width = cli_terminal_width()};
    int rc = find_quantity(run, o->quantity, &options.quantity, err);
    if (rc == OK)
        terminal_put_run(run, &options, &text);
    if (text.failed)
        rc = err_memory(err, "the summary", text.len);
    if (rc == OK)
        fwrite(str_text(&text), 1, text.len, stdout); /* cli_finish_stdout() sees a failure */
    str_free(&text);
    return rc;
}

static int print_tokens(struct profile *profile, const struct show_options *o, struct err *err) {
    struct token_names names = {0};
    struct token_ranking ranking = {0};
    struct str text = {0};
    int rc = OK;
    if (token_quantity_of(profile) == TOKEN_NOTHING)
        return err_set(err, ERR_INPUT, o->path, "recorded no gates of tokens (spkv profile --record tokens,open does)");
    if ((rc = token_names_open(profile, o->tokenizer, &names, err)) == OK)
        rc = token_ranking_compute(profile, o->n_tokens, &ranking, err);
    if (rc == OK) {
        token_put_ranking(&ranking, &names.text, &text);
        rc = text.failed ? err_memory(err, "a list of tokens", text.len) : OK;
    }
    if (rc == OK)
        fwrite(str_text(&text), 1, text.len, stdout); /* cli_finish_stdout() sees a failure */
    str_free(&text);
    token_ranking_free(&ranking);
    token_names_close(&names);
    return rc;
}

static int compare(const struct show_options *o, struct err *err) {
    struct head_difference difference;
    struct str text = {0};
    json_t *root = NULL;
    int rc = head_difference_read(o->path, o->other, o->n_top, &difference, err);
    if (rc == OK && o->json) {
        if (!(root = head_difference_json(&difference)))
            rc = err_memory(err, "the JSON object", 0);
        else if (json_dumpf(root, stdout, JSON_INDENT(1)) == 0)
            putchar('\n');
    } else if (rc == OK) {
        head_difference_put(&difference, &text);
        fputs(str_text(&text), stdout);
    }
    json_decref(root);
    str_free(&text);
    head_difference_free(&difference);
    return rc == OK ? cli_finish_stdout(err) : rc;
}

int cmd_show(int argc, char **argv) {
    struct show_options o = {0};
    struct profile *profile = NULL;
    struct run run = {0};
    struct err err = {0};
    argp_parse(&parser, argc, argv, 0, NULL, &o);
    if (o.other)
        compare(&o, &err);
    else if (o.n_tokens) {
        if (cli_check_run_path(o.path, &err) == OK && profile_open(o.path, &profile, &err) == OK &&
            print_tokens(profile, &o, &err) == OK)
            cli_finish_stdout(&err);
    } else if (cli_check_run_path(o.path, &err) == OK && profile_open(o.path, &profile, &err) == OK &&
             run_load(profile, &run, &err) == OK && (o.json ? print_json(&run, &err) : print_text(&run, &o, &err)) == OK)
        cli_finish_stdout(&err);
    run_free(&run);
    profile_close(profile);
    return cli_report(&err);
}
