/* cli.h - what the subcommands share. Only cli/ reads argv, prints and exits.
 *
 * A command is one file cmd_<name>.c with `int cmd_<name>(int argc, char **argv)`: argv[0] is "spkv <name>", arguments
 * are parsed with argp, the result is the process exit status (err_exit_status()). Results go to stdout, everything else
 * to stderr. */
#ifndef SPKV_CLI_CLI_H
#define SPKV_CLI_CLI_H

#include <argp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/err.h"

int cmd_profile(int argc, char **argv);
int cmd_show(int argc, char **argv);
int cmd_report(int argc, char **argv);
int cmd_recommend(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_compare(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_train(int argc, char **argv);
int cmd_import(int argc, char **argv);
int cmd_export(int argc, char **argv);
int cmd_tasks(int argc, char **argv);
int cmd_merge(int argc, char **argv);
int cmd_check(int argc, char **argv);

/* Prints "spkv: WHERE: MESSAGE" to stderr, continuation lines indented, and returns the exit status of err->code (0 and
 * nothing printed when it is OK). */
int cli_report(const struct err *err);

/* A remark on stderr, "spkv: note: ...", unless quiet. */
void cli_note(bool quiet, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Whether colours may be sent to this stream: a terminal, TERM not dumb, NO_COLOR not set (or empty). */
bool cli_color(FILE *stream);
bool cli_truecolor(void); /* COLORTERM says truecolor or 24bit */
int cli_terminal_width(void); /* columns of standard output, 80 where it is no terminal */

/* Flushes stdout and turns a failed write (full disk, closed pipe) into an error. */
int cli_finish_stdout(struct err *err);

/* From the first call on SIGINT and SIGTERM set this flag instead of ending the process; the second one ends it. */
const volatile sig_atomic_t *cli_stop_flag(void);

/* Numbers of options, for argp parsers: the whole text must be a number in range, else argp_error() (exit status 2). */
long long cli_parse_int(const struct argp_state *state, const char *option, const char *text, long long min, long long max);
double cli_parse_real(const struct argp_state *state, const char *option, const char *text, double min, double max);

/* The text of an option, when it is one of the choices ("auto|f32|bf16"), else argp_error(). */
const char *cli_parse_choice(const struct argp_state *state, const char *option, const char *text, const char *choices);

/* ERR_INPUT, saying what to do with it, for a directory that is a training run or a model and no run of profile. */
int cli_check_run_path(const char *path, struct err *err);

/* The command line as one string, quoted for a shell; free it. */
char *cli_command_line(int argc, char **argv);

extern const char cli_version[]; /* "0.1.0" */
extern const char cli_commit[];  /* git commit of the build, "-dirty" appended when the tree was changed, or "unknown" */

#endif
