/* main.c - finds the subcommand. */
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "cli/cli.h"

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
};

static const struct command commands[] = {
    {"profile", cmd_profile, "run a corpus through a model and record what its cache keeps"},
    {"show", cmd_show, "summary of a run file in the terminal"},
    {"report", cmd_report, "heatmaps, figures, tables and a page from run files"},
    {"recommend", cmd_recommend, "hybrid local-global layouts from a run file"},
    {"verify", cmd_verify, "measure layouts beside full attention, the window and SP-KV"},
    {"compare", cmd_compare, "pruning policies beside each other at matched cost"},
    {"eval", cmd_eval, "score tasks under a policy: multiple choice, perplexity"},
    {"generate", cmd_generate, "continue a prompt"},
    {"serve", cmd_serve, "answer log-likelihood and generation requests over a pipe"},
    {"info", cmd_info, "what a checkpoint is and what it needs"},
    {"train", cmd_train, "make SP-KV models: pretrain, adapt, resume"},
    {"bench", cmd_bench, "prefill and decode speed over context, batch and policy"},
    {"tasks", cmd_tasks, "write generated tasks as JSON lines"},
    {"import", cmd_import, "head patterns of other tools: look, compare, make a layout"},
    {"export", cmd_export, "a layout or a run in the form of another tool"},
    {"merge", cmd_merge, "join the shards of a run"},
    {"check", cmd_check, "verify a run file, recover a broken one"},
};

static void print_help(FILE *stream) {
    fputs("Usage: spkv COMMAND [OPTION...]\n"
          "Profile, record and shorten the KV caches of language models (SP-KV, arXiv 2605.14037).\n\n",
          stream);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        fprintf(stream, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fputs("\n`spkv COMMAND --help` describes a command. Results go to standard output, everything else to standard error.\n"
          "Exit status: 0 ok, 1 failed, 2 usage, 3 input rejected or output exists, 4 interrupted or incomplete.\n",
          stream);
}

static int run_command(const struct command *command, int argc, char **argv) {
    struct str name = {0};
    str_printf(&name, "spkv %s", command->name);
    if (name.failed)
        return 1;
    argv[1] = name.data;
    int status = command->run(argc - 1, argv + 1);
    str_free(&name);
    return status;
}

int main(int argc, char **argv) {
    argp_err_exit_status = 2;
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is a failed write, like a full disk */
    setlocale(LC_CTYPE, ""); /* numbers stay in the C locale */
    if (argc < 2) {
        print_help(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_help(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("spkv %s (%s)\n", cli_version, cli_commit);
        return 0;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return run_command(&commands[i], argc, argv);
    fprintf(stderr, "spkv: \"%s\" is not a command (see spkv --help)\n", argv[1]);
    return 2;
}
