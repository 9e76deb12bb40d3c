#include "cli/refine_log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

enum { MAX_BYTES = 1 << 28, HEADS_FIELD = 3 };

static const char header[] = "what,head_out,head_in,heads,nll_nat_per_token,best_nll_nat_per_token,time\n";

static int remember(struct refine_log *log, const char *heads, size_t n, double nll, struct err *err) {
    int rc = mem_grow(&log->entries, &log->cap, log->n + 1, sizeof *log->entries, "a log", err);
    char *copy = rc == OK ? mem_strndup(heads, n, err) : NULL;
    if (!copy)
        return ERR_MEMORY;
    log->entries[log->n++] = (struct refine_entry){copy, nll};
    return OK;
}

/* One line, without its end. */
static int take_line(struct refine_log *log, const char *line, size_t number, struct err *err) {
    const char *field = line;
    char *end = NULL;
    for (int i = 0; field && i < HEADS_FIELD; i++) {
        field = strchr(field, ',');
        field = field ? field + 1 : NULL;
    }
    size_t n = field ? strspn(field, "01-") : 0;
    double nll = n > 0 && field[n] == ',' ? strtod(field + n + 1, &end) : 0;
    if (!end || end == field + n + 1 || *end != ',')
        return err_set(err, ERR_INPUT, log->path, "line %zu is not one of a search over layouts", number);
    return remember(log, field, n, nll, err);
}

/* Takes the complete lines of the text; *n becomes their length. */
static int take_text(struct refine_log *log, char *text, size_t *n, struct err *err) {
    size_t at = 0, number = 1;
    int rc = OK;
    for (char *end; rc == OK && (end = memchr(text + at, '\n', *n - at)); number++) {
        *end = 0;
        if (number == 1 && strncmp(text, header, sizeof header - 2) != 0)
            return err_set(err, ERR_INPUT, log->path, "is not the log of a search over layouts (give another name)");
        if (number > 1)
            rc = take_line(log, text + at, number, err);
        at = (size_t)(end - text) + 1;
    }
    *n = at;
    return rc;
}

static int read_old(struct refine_log *log, struct err *err) {
    char *text;
    size_t n;
    int rc = file_read_all(log->path, MAX_BYTES, &text, &n, err);
    if (rc != OK)
        return rc;
    rc = take_text(log, text, &n, err);
    free(text);
    if (rc == OK && truncate(log->path, (off_t)n) != 0)
        rc = err_errno(err, errno, log->path, "cannot cut off the last line");
    return rc;
}

int refine_log_open(const char *path, struct refine_log *log, struct err *err) {
    *log = (struct refine_log){.path = path};
    int rc = path && file_exists(path) ? read_old(log, err) : OK;
    if (rc == OK && path && !(log->stream = fopen(path, "a")))
        rc = err_errno(err, errno, path, "cannot write");
    if (rc == OK && path && ftell(log->stream) == 0 && (fputs(header, log->stream) < 0 || fflush(log->stream) != 0))
        rc = err_errno(err, errno, path, "cannot write");
    if (rc != OK)
        refine_log_close(log);
    return rc;
}

void refine_log_close(struct refine_log *log) {
    for (size_t i = 0; i < log->n; i++)
        free(log->entries[i].heads);
    free(log->entries);
    if (log->stream)
        fclose(log->stream);
    *log = (struct refine_log){0};
}

const double *refine_log_find(const struct refine_log *log, const char *heads) {
    for (size_t i = 0; i < log->n; i++)
        if (strcmp(log->entries[i].heads, heads) == 0)
            return &log->entries[i].nll;
    return NULL;
}

int refine_log_add(struct refine_log *log, const char *what, const char *out, const char *in, const char *heads, double nll,
                   double best, struct err *err) {
    char now[32];
    clock_utc(now);
    if (log->stream && (fprintf(log->stream, "%s,%s,%s,%s,%.17g,%.17g,%s\n", what, out, in, heads, nll, best, now) < 0 ||
                        fflush(log->stream) != 0))
        return err_errno(err, errno, log->path, "cannot write");
    return remember(log, heads, strlen(heads), nll, err);
}
