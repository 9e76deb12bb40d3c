#include "reports/training_log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "reports/number_table.h"

static const char *const column_names[TRAINING_N_COLUMNS] = {
    [TRAINING_STEP] = "step",
    [TRAINING_TOKENS] = "n_tok",
    [TRAINING_LOSS] = "loss_nat_per_token",
    [TRAINING_BLEND] = "blend",
    [TRAINING_GATE_DENSITY] = "gate_density",
    [TRAINING_LONG_DENSITY] = "long_range_density",
    [TRAINING_EVAL_HARD] = "eval_hard_nat_per_token",
    [TRAINING_EVAL_FULL] = "eval_full_nat_per_token",
    [TRAINING_EVAL_LONG_DENSITY] = "eval_long_range_density",
};

bool training_log_is(const char *path) {
    size_t n = strlen(path);
    if (!file_is_dir(path))
        return n > 4 && strcmp(path + n - 4, ".csv") == 0;
    char *inside = file_join(path, "log.csv", NULL);
    bool found = inside && file_exists(inside);
    free(inside);
    return found;
}

static int read_steps(const char *path, struct training_log *log, struct err *err) {
    struct number_table t;
    int rc = number_table_read(path, &t, err);
    if (rc != OK)
        return rc;
    log->n_steps = t.n_rows;
    if (t.n_rows == 0)
        rc = err_set(err, ERR_INPUT, path, "the log holds no step yet");
    else if (!(log->columns = mem_alloc(t.n_rows * TRAINING_N_COLUMNS, sizeof *log->columns, "a log", err)))
        rc = ERR_MEMORY;
    for (int c = 0; rc == OK && c < TRAINING_N_COLUMNS; c++) {
        size_t from;
        if ((rc = number_table_find(&t, column_names[c], path, &from, err)) == OK)
            for (size_t i = 0; i < t.n_rows; i++)
                log->columns[(size_t)c * t.n_rows + i] = t.values[i * t.n_columns + from];
    }
    const double *step = log->columns;
    for (size_t i = 0; rc == OK && i < t.n_rows; i++)
        if (isnan(step[i]) || (i > 0 && step[i] <= step[i - 1]))
            rc = err_set(err, ERR_INPUT, path, "line %zu: steps do not rise", i + 2);
    number_table_free(&t);
    return rc;
}

/* The order in which the trainer writes: step by step, layer by layer, head by head. */
struct head_row {
    double step, layer, kv_head, density;
};

static struct head_row head_row_at(const struct number_table *t, const size_t place[4], size_t i) {
    const double *row = t->values + i * t->n_columns;
    return (struct head_row){row[place[0]], row[place[1]], row[place[2]], row[place[3]]};
}

/* Layers and heads as the first step has them; steps are complete, apart from the last one, which is left out then. */
static int fill_heads(const struct number_table *t, const size_t place[4], const char *path, struct training_log *log,
                      struct err *err) {
    size_t n_heads = 0, n_kv_heads = 0;
    while (n_heads < t->n_rows && head_row_at(t, place, n_heads).step == head_row_at(t, place, 0).step)
        n_kv_heads += head_row_at(t, place, n_heads++).layer == 0;
    if (n_heads == 0)
        return OK;
    if (n_kv_heads == 0 || n_heads % n_kv_heads)
        return err_set(err, ERR_INPUT, path, "the first step has %zu heads, %zu of them in layer 0", n_heads, n_kv_heads);
    log->n_kv_heads = n_kv_heads;
    log->n_layers = n_heads / n_kv_heads;
    size_t n_steps = t->n_rows / n_heads;
    if (!(log->head_steps = mem_alloc(n_steps, sizeof *log->head_steps, "a log", err)) ||
        !(log->density = mem_alloc(n_steps * n_heads, sizeof *log->density, "a log", err)))
        return ERR_MEMORY;
    for (size_t i = 0; i < n_steps * n_heads; i++) {
        struct head_row row = head_row_at(t, place, i), first = head_row_at(t, place, i - i % n_heads);
        if (row.step != first.step || row.layer != (double)(i % n_heads / n_kv_heads) ||
            row.kv_head != (double)(i % n_kv_heads))
            return err_set(err, ERR_INPUT, path, "line %zu is out of order: layer by layer, head by head is expected", i + 2);
        log->head_steps[i / n_heads] = row.step;
        log->density[i] = row.density;
    }
    log->n_head_steps = n_steps;
    return OK;
}

static int read_heads(const char *path, struct training_log *log, struct err *err) {
    static const char *const names[] = {"step", "layer", "kv_head", "long_range_density"};
    struct number_table t;
    size_t place[4];
    if (!file_exists(path))
        return OK;
    int rc = number_table_read(path, &t, err);
    for (int c = 0; rc == OK && c < 4; c++)
        rc = number_table_find(&t, names[c], path, &place[c], err);
    if (rc == OK)
        rc = fill_heads(&t, place, path, log, err);
    number_table_free(&t);
    return rc;
}

/* The paths of both files. */
static int find_files(const char *path, struct str *steps, struct str *heads, struct err *err) {
    const char *slash = strrchr(path, '/');
    str_puts(steps, path);
    if (file_is_dir(path)) {
        str_puts(steps, "/log.csv");
        str_printf(heads, "%s/heads.csv", path);
    } else {
        str_append(heads, path, slash ? (size_t)(slash - path) + 1 : 0);
        str_puts(heads, "heads.csv");
    }
    return steps->failed || heads->failed ? err_memory(err, "a path", strlen(path)) : OK;
}

int training_log_read(const char *path, struct training_log **out, struct err *err) {
    struct str steps = {0}, heads = {0};
    struct training_log *log = mem_alloc(1, sizeof *log, "a log", err);
    *out = NULL;
    int rc = log && (log->path = mem_strndup(path, strlen(path), err)) ? find_files(path, &steps, &heads, err) : ERR_MEMORY;
    if (rc == OK && (rc = read_steps(str_text(&steps), log, err)) == OK)
        rc = read_heads(str_text(&heads), log, err);
    str_free(&steps);
    str_free(&heads);
    if (rc == OK)
        *out = log;
    else
        training_log_free(log);
    return rc;
}

void training_log_free(struct training_log *log) {
    if (!log)
        return;
    free(log->path);
    free(log->columns);
    free(log->head_steps);
    free(log->density);
    free(log);
}

const double *training_log_column(const struct training_log *log, enum training_column column) {
    return log->columns + (size_t)column * log->n_steps;
}

double training_log_last(const struct training_log *log, enum training_column column) {
    const double *x = training_log_column(log, column);
    size_t i = log->n_steps;
    while (i > 0 && isnan(x[i - 1]))
        i--;
    return i > 0 ? x[i - 1] : NAN;
}
