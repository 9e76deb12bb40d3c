#include "cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/file.h"
#include "base/str.h"

#ifndef SPKV_COMMIT
#define SPKV_COMMIT "unknown"
#endif

const char cli_version[] = "0.1.0";
const char cli_commit[] = SPKV_COMMIT;

static volatile sig_atomic_t stop_requested; /* the one thing a signal handler may touch */

/* Names from files may hold anything: control characters must not reach a terminal. Line breaks are indented. */
static void put_plain(const char *text) {
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p == '\n')
            fputs("\n      ", stderr);
        else if (*p < 0x20 || *p == 0x7F)
            fprintf(stderr, "\\x%02x", *p);
        else
            fputc(*p, stderr);
    }
}

int cli_report(const struct err *err) {
    if (err->code == OK)
        return 0;
    fputs("spkv: ", stderr);
    put_plain(err->where);
    fputs(err->where[0] ? ": " : "", stderr);
    put_plain(err->message);
    fputc('\n', stderr);
    return err_exit_status(err->code);
}

void cli_note(bool quiet, const char *format, ...) {
    va_list args;
    if (quiet)
        return;
    va_start(args, format);
    fputs("spkv: note: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

bool cli_color(FILE *stream) {
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(fileno(stream)) && !(no_color && *no_color) && term && strcmp(term, "dumb") != 0;
}

bool cli_truecolor(void) {
    const char *colorterm = getenv("COLORTERM");
    return colorterm && (strcmp(colorterm, "truecolor") == 0 || strcmp(colorterm, "24bit") == 0);
}

int cli_terminal_width(void) {
    struct winsize size;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

int cli_finish_stdout(struct err *err) {
    bool failed = ferror(stdout) != 0;
    if (fflush(stdout) != 0 || failed)
        return err_errno(err, errno ? errno : EIO, "standard output", "cannot write");
    return OK;
}

static void on_stop(int signal_number) {
    if (stop_requested) {
        signal(signal_number, SIG_DFL);
        raise(signal_number);
    }
    stop_requested = 1;
}

const volatile sig_atomic_t *cli_stop_flag(void) {
    struct sigaction action = {.sa_handler = on_stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    return &stop_requested;
}

long long cli_parse_int(const struct argp_state *state, const char *option, const char *text, long long min, long long max) {
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (end == text || *end || errno || n < min || n > max)
        argp_error(state, "--%s: \"%s\" is not an integer from %lld to %lld", option, text, min, max);
    return n;
}

double cli_parse_real(const struct argp_state *state, const char *option, const char *text, double min, double max) {
    char *end;
    double x = strtod(text, &end);
    if (end == text || *end || !(x >= min && x <= max))
        argp_error(state, "--%s: \"%s\" is not a number from %g to %g", option, text, min, max);
    return x;
}

const char *cli_parse_choice(const struct argp_state *state, const char *option, const char *text, const char *choices) {
    size_t n = strlen(text), n_choice;
    for (const char *choice = choices; *choice; choice += n_choice + (choice[n_choice] == '|')) {
        n_choice = strcspn(choice, "|");
        if (n_choice == n && memcmp(choice, text, n) == 0)
            return text;
    }
    argp_error(state, "--%s: \"%s\" is not one of %s", option, text, choices);
    return text;
}

static bool holds(const char *dir, const char *name) {
    char *path = file_join(dir, name, NULL);
    bool found = path && file_exists(path);
    free(path);
    return found;
}

int cli_check_run_path(const char *path, struct err *err) {
    if (!file_is_dir(path))
        return OK;
    if (holds(path, "run.json"))
        return err_set(err, ERR_INPUT, path, "is a training run, no run of spkv profile: spkv report %s -o DIR draws its "
                       "curves, spkv info %s/checkpoint tells about its model", path, path);
    if (holds(path, "config.json") || holds(path, "spkv_config.json"))
        return err_set(err, ERR_INPUT, path, "is a model, no run: spkv profile records one with it%s",
                       holds(path, "training_state.json") ? ", spkv report draws the curves of the directory above" : "");
    return OK;
}

char *cli_command_line(int argc, char **argv) {
    struct str s = {0};
    for (int i = 0; i < argc; i++) {
        if (i)
            str_putc(&s, ' ');
        if (i == 0 ||
            strspn(argv[i], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,+@%") == strlen(argv[i])) {
            str_puts(&s, *argv[i] ? argv[i] : "''");
            continue;
        }
        str_putc(&s, '\'');
        for (const char *p = argv[i]; *p; p++)
            if (*p == '\'')
                str_puts(&s, "'\\''");
            else
                str_putc(&s, *p);
        str_putc(&s, '\'');
    }
    return s.data;
}
