/* Candidates out of tables: compare.csv of spkv compare, the CSV of spkv verify. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/csv.h"
#include "reports/candidates.h"
#include "reports/text.h"

static const char *const needed[] = {"read_fraction", "nll_change"};
enum { N_NEEDED = sizeof needed / sizeof *needed, LONGEST_COMMAND = 200 };

bool candidates_is_table(const char *path) {
    return csv_has_columns(path, needed, N_NEEDED);
}

struct columns {
    int policy, spec, weights, column, name, strategy, command, documents, sequences, predicted, window, used, full;
};

static struct columns find_columns(const struct csv *t) {
    return (struct columns){.policy = csv_column(t, "policy"),
                            .spec = csv_column(t, "spec"),
                            .weights = csv_column(t, "weights"),
                            .column = csv_column(t, "column"),
                            .name = csv_column(t, "name"),
                            .strategy = csv_column(t, "strategy"),
                            .command = csv_column(t, "command"),
                            .documents = csv_column(t, "n_documents"),
                            .sequences = csv_column(t, "n_sequences"),
                            .predicted = csv_column(t, "n_predicted"),
                            .window = csv_column(t, "window_tok"),
                            .used = csv_column(t, "kv_bytes_used"),
                            .full = csv_column(t, "kv_bytes_full")};
}

/* A policy under each kind of weights is a line of its own; a layout belongs to its strategy. */
static void put_group(const struct csv *t, const struct columns *k, size_t row, struct str *out) {
    const char *policy = csv_text(t, row, k->policy), *weights = csv_text(t, row, k->weights),
               *strategy = csv_text(t, row, k->strategy), *name = csv_text(t, row, k->name);
    str_puts(out, *policy ? policy : *strategy ? strategy : *name ? name : "?");
    if (*weights)
        str_printf(out, " (%s weights)", weights);
}

static void put_cell(const struct csv *t, size_t row, int column, const char *before, const char *after, struct str *out) {
    if (*csv_text(t, row, column))
        str_printf(out, "%s%s%s", before, csv_text(t, row, column), after);
}

static void put_origin(const struct csv *t, const struct columns *k, size_t row, struct str *out) {
    const char *command = csv_text(t, row, k->command);
    put_cell(t, row, k->documents, "", " documents, ", out);
    put_cell(t, row, k->sequences, "", " sequences, ", out);
    put_cell(t, row, k->predicted, "", " predictions", out);
    put_cell(t, 0, k->window, "; window ", "", out); /* of the reference: what else a policy has its name says */
    str_puts(out, out->len ? ". " : "");
    if (*command)
        str_printf(out, "Made by: %.*s%s", LONGEST_COMMAND, command, strlen(command) > LONGEST_COMMAND ? " ..." : ".");
}

static int read_estimate(const struct csv *t, size_t row, const char *name, struct estimate *out, struct err *err) {
    static const char *const suffixes[] = {"", "_low", "_high"};
    double *const ends[] = {&out->value, &out->low, &out->high};
    int rc = OK;
    for (size_t i = 0; rc == OK && i < 3; i++) {
        char column[64];
        snprintf(column, sizeof column, "%s%s", name, suffixes[i]);
        rc = csv_real(t, row, csv_column(t, column), ends[i], err);
    }
    return rc;
}

static int read_row(const struct csv *t, const struct columns *k, size_t row, struct candidate *c, struct err *err) {
    double used, full;
    int rc;
    if ((rc = csv_real(t, row, csv_column(t, "read_fraction"), &c->read_fraction, err)) != OK ||
        (rc = csv_real(t, row, k->used, &used, err)) != OK || (rc = csv_real(t, row, k->full, &full, err)) != OK ||
        (rc = read_estimate(t, row, "nll_change", &c->nll_change, err)) != OK ||
        (rc = read_estimate(t, row, "gap_recovered", &c->gap_recovered, err)) != OK)
        return rc;
    c->kv_fraction = full > 0 ? used / full : (double)NAN;
    return OK;
}

static int add_row(struct candidates *to, const struct csv *t, const struct columns *k, size_t row, struct err *err) {
    const char *spec = csv_text(t, row, k->spec), *name = csv_text(t, row, k->name);
    struct str group = {0}, origin = {0};
    struct candidate *c;
    put_group(t, k, row, &group);
    put_origin(t, k, row, &origin);
    int rc = group.failed || origin.failed ? err_memory(err, "a table", 0)
                                           : candidates_add(to, str_text(&group), *spec ? spec : name,
                                                            csv_text(t, row, k->column), str_text(&origin), &c, err);
    if (rc == OK)
        rc = read_row(t, k, row, c, err);
    str_free(&group);
    str_free(&origin);
    return rc;
}

int candidates_add_table(struct candidates *to, const char *path, struct err *err) {
    struct csv t;
    int rc = csv_read(path, &t, err);
    if (rc != OK)
        return rc;
    struct columns k = find_columns(&t);
    for (size_t i = 0; rc == OK && i < N_NEEDED; i++)
        if (csv_column(&t, needed[i]) == CSV_NO_COLUMN)
            rc = err_set(err, ERR_INPUT, path, "no column \"%s\" (is this a table of spkv compare or verify?)", needed[i]);
    for (size_t row = 0; rc == OK && row < t.n_rows; row++)
        rc = add_row(to, &t, &k, row, err);
    csv_free(&t);
    return rc;
}
