#include "train/log.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

static const char step_columns[] = "step,n_tok,loss_nat_per_token,lr_model,lr_predictor,blend,density_weight,gate_density,"
                                   "long_range_density,grad_norm,tok_per_s,eval_hard_nat_per_token,eval_full_nat_per_token,"
                                   "eval_gate_density,eval_long_range_density,gemm_frac\n";
static const char head_columns[] = "step,layer,kv_head,long_range_density\n";

/* One CSV file, open at its end. */
struct table {
    char *path;
    FILE *stream;
};

struct train_log {
    struct table steps, heads;
};

/* Bytes of the complete lines of steps up to `step`, the header included. */
static size_t kept_bytes(const char *data, size_t n, int64_t step) {
    const char *at = data, *end;
    while ((end = memchr(at, '\n', n - (size_t)(at - data)))) {
        if (at != data && strtoll(at, NULL, 10) > step)
            break;
        at = end + 1;
    }
    return (size_t)(at - data);
}

/* How much of an existing file stays; nothing of one with other columns. */
static int find_end(const char *path, const char *columns, int64_t step, size_t *n_kept, struct err *err) {
    struct file_map map;
    size_t n_columns = strlen(columns);
    *n_kept = 0;
    if (step == 0 || !file_exists(path))
        return OK;
    int rc = file_map_open(path, &map, err);
    if (rc == OK && map.size > 0) {
        if (map.size >= n_columns && memcmp(map.data, columns, n_columns) == 0)
            *n_kept = kept_bytes(map.data, map.size, step);
        else
            rc = err_set(err, ERR_INPUT, path, "the first line is not that of this log: move the file away, so that the run "
                                               "can write it anew");
    }
    file_map_close(&map);
    return rc;
}

static int check_written(const struct table *t, struct err *err) {
    errno = 0;
    if (fflush(t->stream) == 0 && !ferror(t->stream))
        return OK;
    return err_errno(err, errno ? errno : EIO, t->path, "cannot write");
}

static int table_open(struct table *t, const char *out_dir, const char *name, const char *columns, int64_t step,
                      struct err *err) {
    size_t n_kept = 0;
    if (!(t->path = file_join(out_dir, name, err)))
        return ERR_MEMORY;
    int rc = find_end(t->path, columns, step, &n_kept, err);
    if (rc != OK)
        return rc;
    if (!(t->stream = fopen(t->path, n_kept ? "r+" : "w")))
        return err_errno(err, errno, t->path, "cannot open");
    if (ftruncate(fileno(t->stream), (off_t)n_kept) != 0 || fseek(t->stream, 0, SEEK_END) != 0)
        return err_errno(err, errno, t->path, "cannot cut back to the saved step");
    if (n_kept == 0)
        fputs(columns, t->stream);
    return check_written(t, err);
}

static int table_close(struct table *t, struct err *err) {
    int rc = OK;
    if (t->stream && fclose(t->stream) != 0)
        rc = err_errno(err, errno, t->path, "cannot write");
    free(t->path);
    return rc;
}

int train_log_open(const char *out_dir, int64_t step, struct train_log **out, struct err *err) {
    struct train_log *log = mem_alloc(1, sizeof *log, "a log", err);
    int rc = log ? file_make_dirs(out_dir, err) : ERR_MEMORY;
    *out = NULL;
    if (rc == OK)
        rc = table_open(&log->steps, out_dir, "log.csv", step_columns, step, err);
    if (rc == OK)
        rc = table_open(&log->heads, out_dir, "heads.csv", head_columns, step, err);
    if (rc == OK)
        *out = log;
    else
        train_log_close(log, NULL);
    return rc;
}

int train_log_close(struct train_log *log, struct err *err) {
    if (!log)
        return OK;
    int steps = table_close(&log->steps, err), heads = table_close(&log->heads, err);
    free(log);
    return steps != OK ? steps : heads;
}

/* NaN is an empty cell. */
static void put_cell(FILE *stream, double x) {
    if (isnan(x))
        fputc(',', stream);
    else
        fprintf(stream, ",%.9g", x);
}

int train_log_step(struct train_log *log, const struct train_log_row *r, struct err *err) {
    const double cells[] = {r->loss, r->lr_model, r->lr_predictor, r->blend, r->density_weight, r->gate_density,
                            r->long_range_density, r->grad_norm, r->tok_per_s, r->eval_nll_hard, r->eval_nll_full,
                            r->eval_gate_density, r->eval_long_range_density, r->gemm_frac};
    fprintf(log->steps.stream, "%" PRId64 ",%" PRIu64, r->step, r->n_tok);
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++)
        put_cell(log->steps.stream, cells[i]);
    fputc('\n', log->steps.stream);
    return check_written(&log->steps, err);
}

int train_log_heads(struct train_log *log, int64_t step, int n_layers, int n_kv_heads, const double *density,
                    struct err *err) {
    for (int l = 0; l < n_layers; l++)
        for (int k = 0; k < n_kv_heads; k++) {
            fprintf(log->heads.stream, "%" PRId64 ",%d,%d", step, l, k);
            put_cell(log->heads.stream, density[l * n_kv_heads + k]);
            fputc('\n', log->heads.stream);
        }
    return check_written(&log->heads, err);
}
