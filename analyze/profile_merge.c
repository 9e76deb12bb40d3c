#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "analyze/profile.h"
#include "analyze/profile_attribute.h"
#include "analyze/profile_set.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

static int read_rows(void *self, enum profile_field field, uint64_t first, size_t n, void *out, struct err *err) {
    struct profile *p = self;
    int rc = profile_read_rows(p, field, first, n, out, err);
    bool tokens = profile_field_kind(field) == FIELD_TOKENS;
    if (first + n == (tokens ? p->n_tokens : p->n_sequences)) /* fields are copied one after the other */
        profile_drop_field(p, field);
    return rc;
}

static int read_sum(void *self, enum profile_field field, void **out, struct err *err) {
    return profile_read_sum(self, field, out, err);
}

/* Row splits of the whole profile; NULL without tokens. */
static int join_splits(struct profile *p, uint64_t **out, struct err *err) {
    *out = NULL;
    if (!profile_has(p, PROFILE_TOKEN_ID))
        return OK;
    uint64_t *splits = mem_alloc(p->n_sequences + 1, sizeof *splits, "row splits", err);
    if (!splits)
        return ERR_MEMORY;
    for (size_t i = 0; i < p->n_runs; i++) {
        const struct profile_run *run = &p->runs[i];
        const uint64_t *own = p->parts[run->part].row_splits + run->part_row;
        for (size_t row = 0; row <= run->n; row++)
            splits[run->row + row] = run->token + (own[row] - own[0]);
    }
    *out = splits;
    return OK;
}

int profile_write_flat(struct profile *p, const struct profile_meta *meta, const char *path, const char *temporary,
                       struct err *err) {
    uint64_t *splits;
    int rc = join_splits(p, &splits, err);
    if (rc != OK)
        return rc;
    struct profile_columns columns = {.meta = meta, .n_sequences = p->n_sequences, .n_tokens = (size_t)p->n_tokens,
                                      .row_splits = splits, .self = p, .read_rows = read_rows,
                                      .read_sum = read_sum};
    rc = profile_file_write(path, temporary, &columns, err);
    free(splits);
    return rc;
}

/* Whether any part belongs to this shard. */
static bool has_shard(const struct profile *p, uint32_t shard) {
    for (size_t i = 0; i < p->n_parts; i++)
        if (p->parts[i].meta.shard == shard)
            return true;
    return false;
}

/* Why sequences may be missing: the shards that nobody gave. */
static void name_missing_shards(const struct profile *p, struct str *out) {
    const struct profile_meta *meta = profile_meta(p);
    int n = 0;
    for (uint32_t shard = 0; shard < meta->n_shards && n < 10; shard++)
        if (!has_shard(p, shard))
            str_printf(out, "%s %u/%u", n++ ? "," : "\nnot given: shard", shard, meta->n_shards);
}

int profile_set_complete(const struct profile *p, uint64_t n_total, struct err *err) {
    uint64_t expected = 0, found = n_total;
    bool gap = false;
    for (size_t i = 0; i < p->n_runs && !gap; i++) {
        const struct profile_run *run = &p->runs[i];
        const uint64_t *index = p->parts[run->part].index + run->part_row;
        for (size_t row = 0; row < run->n && !gap; row++, expected += !gap)
            if (index[row] != expected) {
                gap = true;
                found = index[row];
            }
    }
    if (!gap && expected == n_total)
        return OK;
    struct str shards = {0};
    name_missing_shards(p, &shards);
    int rc = found < expected
                 ? err_set(err, ERR_INPUT, p->path, "holds %llu sequences, but the run has %llu",
                           (unsigned long long)expected, (unsigned long long)n_total)
                 : err_set(err, ERR_INPUT, p->path, "sequences %llu to %llu are missing%s", (unsigned long long)expected,
                           (unsigned long long)found - 1, str_text(&shards));
    str_free(&shards);
    return rc;
}

/* Files, or the segments of directories, as one list. Free with profile_free_segments(). */
static int expand(const char *const *paths, size_t n_paths, char ***out, size_t *n, struct err *err) {
    size_t cap = 0;
    int rc = OK;
    *out = NULL;
    *n = 0;
    for (size_t i = 0; rc == OK && i < n_paths; i++) {
        char **inner = NULL;
        size_t n_inner = 0;
        bool dir = file_is_dir(paths[i]);
        if (dir)
            rc = profile_list_segments(paths[i], &inner, &n_inner, err);
        if (rc == OK)
            rc = mem_grow(out, &cap, *n + n_inner + 1, sizeof **out, "paths", err);
        for (size_t k = 0; rc == OK && k < n_inner; k++) {
            (*out)[(*n)++] = inner[k];
            inner[k] = NULL;
        }
        profile_free_segments(inner, n_inner);
        if (rc == OK && !dir && !((*out)[(*n)++] = mem_strdup(paths[i], err)))
            rc = ERR_MEMORY;
    }
    return rc;
}

/* The length of the whole list, as far as any part knows it; 0 = nobody does. */
static int total_of(const struct profile *p, uint64_t *total, struct err *err) {
    *total = 0;
    for (size_t i = 0; i < p->n_parts; i++) {
        uint64_t n = p->parts[i].meta.n_sequences_total;
        if (n && *total && n != *total)
            return err_set(err, ERR_INPUT, p->parts[i].path, "is part of a run of %llu sequences, others of one of %llu",
                           (unsigned long long)n, (unsigned long long)*total);
        *total = n ? n : *total;
    }
    return OK;
}

static const char *earlier(const char *a, const char *b) {
    return *b && (!*a || strcmp(b, a) < 0) ? b : a;
}

static const char *later(const char *a, const char *b) {
    return strcmp(b, a) > 0 ? b : a;
}

void profile_set_meta(const struct profile *p, struct profile_meta *out) {
    *out = *profile_meta(p);
    out->owned = NULL;
    for (size_t i = 0; i < p->n_parts; i++) {
        const struct profile_meta *meta = &p->parts[i].meta;
        if (meta->pool_peak_bytes > out->pool_peak_bytes)
            out->pool_peak_bytes = meta->pool_peak_bytes;
        if (meta->n_dropped_tails > out->n_dropped_tails)
            out->n_dropped_tails = meta->n_dropped_tails;
        out->time_start = earlier(out->time_start, meta->time_start);
        out->time_end = later(out->time_end, meta->time_end);
    }
}

static int temporary_name(const char *path, struct str *out, struct err *err) {
    str_printf(out, "%s.tmp-%ld", path, (long)getpid());
    return out->failed ? err_memory(err, "a path", strlen(path)) : OK;
}

static int merge_files(const char *const *paths, size_t n, const char *out, struct err *err) {
    struct profile *p;
    struct profile_meta meta;
    struct str temporary = {0};
    uint64_t total;
    int rc = profile_open_set(paths, n, out, &p, err);
    if (rc != OK)
        return rc;
    rc = total_of(p, &total, err);
    if (rc == OK && total == 0)
        rc = err_set(err, ERR_INPUT, paths[0], "no part of the run is finished: continue it with --resume, or write what is "
                     "there with `spkv check --recover`");
    if (rc == OK)
        rc = profile_set_complete(p, total, err);
    if (rc == OK)
        rc = temporary_name(out, &temporary, err);
    if (rc == OK) {
        profile_set_meta(p, &meta);
        meta.shard = 0;
        meta.n_shards = 1;
        meta.n_sequences_total = total;
        meta.complete = true;
        rc = profile_write_flat(p, &meta, out, temporary.data, err);
    }
    str_free(&temporary);
    profile_close(p);
    return rc;
}

int profile_merge(const char *const *paths, size_t n_paths, const char *out, bool force, struct err *err) {
    char **files;
    size_t n;
    int rc = file_check_free(out, force, err);
    if (rc != OK)
        return rc;
    rc = expand(paths, n_paths, &files, &n, err);
    if (rc == OK && n == 0)
        rc = err_set(err, ERR_INPUT, n_paths ? paths[0] : "", "nothing to merge");
    if (rc == OK)
        rc = merge_files((const char *const *)files, n, out, err);
    profile_free_segments(files, n);
    return rc;
}

/* Drops the segments that have problems from the list; returns how many are left. */
static size_t keep_good(char **files, size_t n, void (*report)(void *self, const char *text), void *self) {
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        size_t problems = 0;
        struct err ignored = {0};
        if (profile_check(files[i], report, self, &problems, &ignored) == OK && problems == 0) {
            files[kept++] = files[i];
            continue;
        }
        struct str line = {0};
        str_printf(&line, "%s: left out", files[i]);
        report(self, str_text(&line));
        str_free(&line);
        free(files[i]);
    }
    return kept;
}

static int recover_files(const char *const *paths, size_t n, const char *out, struct err *err) {
    struct profile *p;
    struct profile_meta meta;
    struct str temporary = {0};
    int rc = profile_open_set(paths, n, out, &p, err);
    if (rc != OK)
        return rc;
    profile_set_meta(p, &meta);
    meta.complete = false;
    rc = temporary_name(out, &temporary, err);
    if (rc == OK)
        rc = profile_write_flat(p, &meta, out, temporary.data, err);
    str_free(&temporary);
    profile_close(p);
    return rc;
}

int profile_recover(const char *part_dir, const char *out, bool force, void (*report)(void *self, const char *text),
                    void *self, struct err *err) {
    char **files;
    size_t n;
    int rc = file_check_free(out, force, err);
    if (rc != OK)
        return rc;
    if (!file_is_dir(part_dir))
        return err_set(err, ERR_INPUT, part_dir, "is not a directory of segments (NAME.part): nothing to recover from");
    rc = profile_list_segments(part_dir, &files, &n, err);
    if (rc != OK)
        return rc;
    n = keep_good(files, n, report, self);
    rc = n ? recover_files((const char *const *)files, n, out, err)
           : err_set(err, ERR_INPUT, part_dir, "holds no readable segment");
    profile_free_segments(files, n);
    return rc;
}
