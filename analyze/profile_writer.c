#include "analyze/profile_writer.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "analyze/profile_attribute.h"
#include "analyze/profile_segment.h"
#include "analyze/profile_set.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

enum { SEGMENT_SEQUENCES = 256, SEGMENT_SECONDS = 60, SEGMENT_BYTES = 32 << 20 };

struct profile_writer {
    char *path, *part_dir;
    int lock;                   /* descriptor of part_dir/lock, held exclusively; -1 = none */
    struct profile_meta meta;
    struct profile_row_plan plan;
    struct profile_segment segment;
    uint64_t segment_start_us, segment_us;
    uint32_t segment_sequences;
    uint32_t next_segment;      /* number of the next file */
    size_t n_closed;            /* sequences in closed segments */
    uint64_t *batches;          /* (n_batches) in closed segments, ascending */
    size_t n_batches, batches_cap;
    struct profile_row **rows;  /* (n_rows) of the batch that is being computed */
    size_t n_rows, rows_cap;
};

static char *join(const char *a, const char *b, struct err *err) {
    struct str s = {0};
    str_puts(&s, a);
    str_puts(&s, b);
    if (s.failed) {
        err_memory(err, "a path", strlen(a));
        str_free(&s);
    }
    return s.data;
}

void profile_writer_free(struct profile_writer *w) {
    if (!w)
        return;
    for (size_t i = 0; i < w->n_rows; i++)
        profile_row_free(w->rows[i]);
    free(w->rows);
    free(w->batches);
    profile_segment_free(&w->segment);
    profile_meta_free(&w->meta);
    if (w->lock >= 0)
        close(w->lock);
    free(w->part_dir);
    free(w->path);
    free(w);
}

/* Two processes writing the same segments would destroy each other's work. */
static int take_lock(struct profile_writer *w, struct err *err) {
    char *path = join(w->part_dir, "/lock", err);
    if (!path)
        return ERR_MEMORY;
    int rc = file_lock(path, w->part_dir, &w->lock, err);
    free(path);
    return rc;
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Notes the batches of a closed segment. */
static int note_batches(struct profile_writer *w, const uint64_t *batch, size_t n, struct err *err) {
    int rc = mem_grow(&w->batches, &w->batches_cap, w->n_batches + n, sizeof *w->batches, "batches", err);
    if (rc != OK)
        return rc;
    for (size_t i = 0; i < n; i++)
        if (i == 0 || batch[i] != batch[i - 1])
            w->batches[w->n_batches++] = batch[i];
    qsort(w->batches, w->n_batches, sizeof *w->batches, by_value);
    return OK;
}

/* Takes over the closed segments of an interrupted run, whose settings must be ours. */
static int adopt(struct profile_writer *w, struct profile *p, struct err *err) {
    uint64_t *batch = NULL;
    int rc = profile_meta_compare(&w->meta, "this run", profile_meta(p), w->part_dir, false, err);
    if (rc == OK && !(batch = mem_alloc(p->n_sequences, sizeof *batch, "batches", err)))
        rc = ERR_MEMORY;
    if (rc == OK)
        rc = profile_read_rows(p, PROFILE_SEQUENCE_BATCH, 0, p->n_sequences, batch, err);
    if (rc == OK)
        rc = note_batches(w, batch, p->n_sequences, err);
    w->n_closed = p->n_sequences;
    free(batch);
    return rc;
}

/* Number of a segment file: its name. */
static uint32_t number_of(const char *path) {
    return (uint32_t)strtoul(file_basename(path), NULL, 10);
}

static int resume_segments(struct profile_writer *w, struct err *err) {
    char **files;
    size_t n;
    struct profile *p;
    int rc = profile_list_segments(w->part_dir, &files, &n, err);
    if (rc == OK && n > 0) {
        w->next_segment = number_of(files[n - 1]) + 1;
        rc = profile_open_set((const char *const *)files, n, w->part_dir, &p, err);
        if (rc == OK) {
            rc = adopt(w, p, err);
            profile_close(p);
        }
    }
    profile_free_segments(files, n);
    return rc;
}

/* Decides what an existing NAME means. *done: a finished file of the same run is there. */
static int look_at_result(const struct profile_writer *w, const struct profile_writer_options *options, bool *done,
                          struct err *err) {
    struct profile *p;
    *done = false;
    if (!file_exists(w->path) || options->force)
        return OK;
    if (!options->resume)
        return file_check_free(w->path, false, err);
    int rc = profile_open(w->path, &p, err);
    if (rc != OK)
        return rc;
    rc = profile_meta_compare(&w->meta, "this run", profile_meta(p), w->path, false, err);
    if (rc == OK && !profile_meta(p)->complete)
        rc = err_set(err, ERR_EXISTS, w->path, "is a partial copy, not a run that can go on (use --force to replace it)");
    profile_close(p);
    *done = rc == OK;
    return rc;
}

static int prepare_directory(struct profile_writer *w, const struct profile_writer_options *options, struct err *err) {
    int rc = OK;
    bool there = file_exists(w->part_dir);
    if (there && !options->force && !options->resume)
        return err_set(err, ERR_EXISTS, w->part_dir, "holds an interrupted run: --resume goes on with it, --force drops it");
    rc = file_make_dirs(w->part_dir, err);
    if (rc == OK)
        rc = take_lock(w, err);
    if (rc == OK && there && options->force) { /* the lock file goes with it: make both anew */
        rc = file_remove_tree(w->part_dir, err);
        close(w->lock);
        w->lock = -1;
        if (rc == OK)
            rc = file_make_dirs(w->part_dir, err);
        if (rc == OK)
            rc = take_lock(w, err);
    }
    return rc == OK && there && !options->force ? resume_segments(w, err) : rc;
}

static int fill_meta(struct profile_writer *w, const struct profile_meta *meta, struct err *err) {
    char now[32];
    clock_utc(now);
    int rc = profile_meta_check(meta, w->path, err);
    if (rc == OK)
        rc = profile_meta_copy(meta, &w->meta, err);
    if (rc == OK && !*w->meta.time_start && !(w->meta.time_start = profile_meta_string(&w->meta, now, err)))
        rc = ERR_MEMORY;
    w->meta.schema_minor = PROFILE_SCHEMA_MINOR;
    w->meta.complete = false;
    w->meta.pool_peak_bytes = w->meta.n_sequences_total = w->meta.n_dropped_tails = 0;
    w->plan.meta = &w->meta;
    profile_dims_of(&w->meta, &w->plan.dims);
    if (w->meta.score != PROFILE_SCORE_NONE)
        score_bins_init(&w->plan.scores, w->meta.score == PROFILE_SCORE_SIGMOID, w->meta.score_min, w->meta.score_max);
    return rc;
}

int profile_writer_create(const char *path, const struct profile_meta *meta, const struct profile_writer_options *options,
                          struct profile_writer **out, struct err *err) {
    bool done = false;
    *out = NULL;
    struct profile_writer *w = mem_alloc(1, sizeof *w, "a profile writer", err);
    if (!w)
        return ERR_MEMORY;
    w->lock = -1;
    w->segment_sequences = options->segment_sequences ? options->segment_sequences : SEGMENT_SEQUENCES;
    w->segment_us = (uint64_t)(1e6 * (options->segment_seconds > 0 ? options->segment_seconds : SEGMENT_SECONDS));
    int rc = (w->path = mem_strdup(path, err)) && (w->part_dir = join(path, ".part", err)) ? OK : ERR_MEMORY;
    if (rc == OK)
        rc = fill_meta(w, meta, err);
    if (rc == OK)
        rc = look_at_result(w, options, &done, err);
    if (rc == OK && done)
        rc = file_remove_tree(w->part_dir, err); /* left over when a kill hit between rename and clean-up */
    if (rc == OK && !done)
        rc = prepare_directory(w, options, err);
    if (rc == OK && !done)
        rc = profile_segment_init(&w->segment, &w->plan, err);
    w->segment_start_us = clock_us();
    if (rc == OK && !done)
        *out = w;
    else
        profile_writer_free(w);
    return rc;
}

bool profile_writer_has_batch(const struct profile_writer *w, uint64_t batch) {
    return w->n_batches && bsearch(&batch, w->batches, w->n_batches, sizeof batch, by_value);
}

size_t profile_writer_n_sequences(const struct profile_writer *w) {
    return w->n_closed + w->segment.n_sequences;
}

/* The open row of a sequence; begins one when there is none. */
static int find_row(struct profile_writer *w, const struct profile_sequence *sequence, struct profile_row **out,
                    struct err *err) {
    for (size_t i = w->n_rows; i-- > 0;)
        if (w->rows[i]->index == sequence->index) {
            *out = w->rows[i];
            return OK;
        }
    if (sequence->n_tok == 0 || sequence->n_tok > w->meta.max_length || sequence->corpus >= w->meta.n_corpora ||
        sequence->source >= w->meta.n_sources)
        return err_set(err, ERR_INPUT, w->path,
                       "sequence %llu (%zu tokens, corpus %u, source %u) does not fit a run of max_length %u, %zu corpora "
                       "and %zu sources", (unsigned long long)sequence->index, sequence->n_tok, sequence->corpus,
                       sequence->source, w->meta.max_length, w->meta.n_corpora, w->meta.n_sources);
    int rc = mem_grow(&w->rows, &w->rows_cap, w->n_rows + 1, sizeof *w->rows, "rows of a batch", err);
    if (rc == OK)
        rc = profile_row_create(&w->plan, sequence, out, err);
    if (rc == OK)
        w->rows[w->n_rows++] = *out;
    return rc;
}

int profile_writer_add_gates(struct profile_writer *w, const struct profile_gates *gates, struct err *err) {
    struct profile_row *row;
    int rc = find_row(w, gates->sequence, &row, err);
    return rc == OK ? profile_row_add_gates(row, &w->plan, gates, err) : rc;
}

int profile_writer_add_sequence(struct profile_writer *w, const struct profile_counters *counters, struct err *err) {
    struct profile_row *row;
    int rc = find_row(w, counters->sequence, &row, err);
    if (rc == OK && row->finished)
        rc = err_set(err, ERR_INPUT, w->path, "sequence %llu was recorded twice", (unsigned long long)row->index);
    if (rc == OK)
        rc = profile_row_finish(row, &w->plan, counters, err);
    if (rc == OK && counters->pool_peak_bytes > w->meta.pool_peak_bytes)
        w->meta.pool_peak_bytes = counters->pool_peak_bytes;
    return rc;
}

static int by_index(const void *a, const void *b) {
    const struct profile_row *x = *(struct profile_row *const *)a, *y = *(struct profile_row *const *)b;
    return x->index < y->index ? -1 : x->index > y->index;
}

static void drop_rows(struct profile_writer *w) {
    for (size_t i = 0; i < w->n_rows; i++)
        profile_row_free(w->rows[i]);
    w->n_rows = 0;
}

static int close_segment(struct profile_writer *w, struct err *err) {
    char name[32], now[32];
    char *path = NULL, *temporary = NULL;
    const uint64_t *batch = w->segment.column[PROFILE_SEQUENCE_BATCH];
    w->segment_start_us = clock_us();
    if (w->segment.n_sequences == 0)
        return OK;
    clock_utc(now);
    snprintf(name, sizeof name, "%06u.h5", w->next_segment);
    int rc = (w->meta.time_end = profile_meta_string(&w->meta, now, err)) && (path = file_join(w->part_dir, name, err)) &&
                     (temporary = join(path, ".tmp", err))
                 ? OK
                 : ERR_MEMORY;
    if (rc == OK)
        rc = profile_segment_write(&w->segment, &w->meta, path, temporary, err);
    if (rc == OK)
        rc = note_batches(w, batch, w->segment.n_sequences, err);
    if (rc == OK) {
        w->n_closed += w->segment.n_sequences;
        w->next_segment++;
        profile_segment_clear(&w->segment);
    }
    free(temporary);
    free(path);
    return rc;
}

int profile_writer_end_batch(struct profile_writer *w, uint64_t batch, struct err *err) {
    int rc = OK;
    for (size_t i = 0; i < w->n_rows; i++)
        if (!w->rows[i]->finished)
            return err_set(err, ERR_INPUT, w->path, "batch %llu ended before sequence %llu was finished",
                           (unsigned long long)batch, (unsigned long long)w->rows[i]->index);
    if (w->n_rows)
        qsort(w->rows, w->n_rows, sizeof *w->rows, by_index);
    const uint64_t *index = w->segment.column[PROFILE_SEQUENCE_INDEX];
    if (w->n_rows && w->segment.n_sequences && w->rows[0]->index <= index[w->segment.n_sequences - 1])
        rc = close_segment(w, err); /* rows ascend within a file */
    for (size_t i = 0; rc == OK && i < w->n_rows; i++)
        rc = profile_segment_append(&w->segment, w->rows[i], batch, err);
    drop_rows(w);
    if (rc == OK && (w->segment.n_sequences >= w->segment_sequences || w->segment.n_bytes >= SEGMENT_BYTES ||
                     clock_us() - w->segment_start_us >= w->segment_us))
        rc = close_segment(w, err);
    return rc;
}

int profile_writer_flush(struct profile_writer *w, struct err *err) {
    drop_rows(w);
    return close_segment(w, err);
}

/* A shard may end up with no batch at all: its file is there nevertheless, so that a merge sees that it is finished. */
static int write_empty(struct profile_writer *w, const char *temporary, struct err *err) {
    return profile_segment_write(&w->segment, &w->meta, w->path, temporary, err);
}

static int join_segments(struct profile_writer *w, const struct profile_end *end, const char *temporary, struct err *err) {
    char **files;
    size_t n;
    struct profile *p;
    struct profile_meta meta;
    int rc = profile_list_segments(w->part_dir, &files, &n, err);
    if (rc == OK)
        rc = profile_open_set((const char *const *)files, n, w->path, &p, err);
    profile_free_segments(files, n);
    if (rc != OK)
        return rc;
    profile_set_meta(p, &meta);
    meta.n_sequences_total = end->n_sequences_total;
    meta.n_dropped_tails = end->n_dropped_tails;
    meta.complete = true;
    if (meta.n_shards == 1)
        rc = profile_set_complete(p, end->n_sequences_total, err);
    if (rc == OK)
        rc = profile_write_flat(p, &meta, w->path, temporary, err);
    profile_close(p);
    return rc;
}

int profile_writer_finish(struct profile_writer *w, const struct profile_end *end, struct err *err) {
    ASSERT(w->n_rows == 0);
    int rc = close_segment(w, err);
    if (rc != OK)
        return rc;
    char *temporary = file_join(w->part_dir, "joined.tmp", err);
    if (!temporary)
        return ERR_MEMORY;
    w->meta.n_sequences_total = end->n_sequences_total;
    w->meta.n_dropped_tails = end->n_dropped_tails;
    if (w->n_closed) {
        rc = join_segments(w, end, temporary, err);
    } else if (w->meta.n_shards > 1) {
        w->meta.complete = true;
        w->meta.time_end = w->meta.time_start;
        rc = write_empty(w, temporary, err);
    } else
        rc = err_set(err, ERR_INPUT, w->path, "nothing was recorded: the corpus holds no sequence");
    free(temporary);
    return rc == OK ? file_remove_tree(w->part_dir, err) : rc;
}
