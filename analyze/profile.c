#include "analyze/profile.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/bins.h"
#include "analyze/profile_set.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

/* Every open dataset may hold a chunk cache of 1 MiB. Parts of a merge are read in turns, segments one after the other. */
enum { MAX_OPEN_FILES = 128, MAX_OPEN_SEGMENTS = 4 };

/* A sequence of the set, before sorting. */
struct row_key {
    uint64_t index;
    uint32_t part, row;
};

static int by_index(const void *a, const void *b) {
    const struct row_key *x = a, *y = b;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* All rows of all parts in global order. Free *out. */
static int sort_rows(struct profile *p, struct row_key **out, struct err *err) {
    size_t n = 0, k = 0;
    for (size_t i = 0; i < p->n_parts; i++)
        n += p->parts[i].dims.n[AXIS_SEQUENCE];
    struct row_key *keys = mem_alloc(n, sizeof *keys, "the order of sequences", err);
    if (!keys)
        return ERR_MEMORY;
    for (size_t i = 0; i < p->n_parts; i++)
        for (size_t row = 0; row < p->parts[i].dims.n[AXIS_SEQUENCE]; row++)
            keys[k++] = (struct row_key){p->parts[i].index[row], (uint32_t)i, (uint32_t)row};
    qsort(keys, n, sizeof *keys, by_index);
    for (size_t i = 1; i < n; i++)
        if (keys[i].index == keys[i - 1].index) {
            int rc = err_set(err, ERR_INPUT, p->parts[keys[i].part].path,
                             "sequence %llu is in %s as well: give every part of the run once",
                             (unsigned long long)keys[i].index, p->parts[keys[i - 1].part].path);
            free(keys);
            return rc;
        }
    p->n_sequences = n;
    *out = keys;
    return OK;
}

/* Folds consecutive rows of one part into runs. */
static int make_runs(struct profile *p, struct err *err) {
    struct row_key *keys = NULL;
    size_t cap = 0;
    int rc = sort_rows(p, &keys, err);
    if (rc != OK)
        return rc;
    for (size_t i = 0; rc == OK && i < p->n_sequences; i++) {
        const struct profile_part *part = &p->parts[keys[i].part];
        struct profile_run *last = p->n_runs ? &p->runs[p->n_runs - 1] : NULL;
        size_t n_tok = part->row_splits ? part->row_splits[keys[i].row + 1] - part->row_splits[keys[i].row] : 0;
        if (last && last->part == keys[i].part && last->part_row + last->n == keys[i].row) {
            last->n++;
            last->n_tok += n_tok;
        } else if ((rc = mem_grow(&p->runs, &cap, p->n_runs + 1, sizeof *p->runs, "runs", err)) == OK) {
            p->runs[p->n_runs++] =
                (struct profile_run){.part = keys[i].part, .row = i, .part_row = keys[i].row, .n = 1,
                                     .token = p->n_tokens, .n_tok = n_tok,
                                     .part_token = part->row_splits ? part->row_splits[keys[i].row] : 0};
        }
        p->n_tokens += n_tok;
    }
    free(keys);
    return rc;
}

/* Keeps the number of open files bounded: parts are used in long stretches, so the one that was opened first goes. */
static void make_room(struct profile *p, size_t wanted) {
    if (p->parts[wanted].file >= 0)
        return;
    for (; p->n_open >= p->max_open; p->oldest = (p->oldest + 1) % p->n_parts)
        if (p->parts[p->oldest].file >= 0) {
            profile_part_close_file(&p->parts[p->oldest]);
            p->n_open--;
        }
    p->n_open++;
}

static int open_parts(struct profile *p, const char *const *paths, size_t n, struct err *err) {
    if (!(p->parts = mem_alloc(n, sizeof *p->parts, "parts of a run", err)))
        return ERR_MEMORY;
    for (size_t i = 0; i < n; i++) {
        int rc = profile_part_open(paths[i], &p->parts[i], err);
        if (rc != OK)
            return rc;
        p->n_parts++;
        if (n > p->max_open)
            profile_part_close_file(&p->parts[i]);
        else
            p->n_open++;
        if (i > 0 && (rc = profile_meta_compare(&p->parts[0].meta, paths[0], &p->parts[i].meta, paths[i], true, err)) != OK)
            return rc;
    }
    return OK;
}

static int open_set(const char *const *paths, size_t n, size_t max_open, const char *name, struct profile **out,
                    struct err *err) {
    struct profile *p = mem_alloc(1, sizeof *p, "a profile", err);
    if (!p)
        return ERR_MEMORY;
    ASSERT(n > 0);
    p->max_open = max_open;
    int rc = (p->path = mem_strdup(name, err)) ? open_parts(p, paths, n, err) : ERR_MEMORY;
    if (rc == OK)
        rc = make_runs(p, err);
    if (rc == OK && p->parts[0].meta.score != PROFILE_SCORE_NONE) {
        const struct profile_meta *meta = &p->parts[0].meta;
        score_bins_init(&p->scores, meta->score == PROFILE_SCORE_SIGMOID, meta->score_min, meta->score_max);
    }
    for (size_t i = 0; rc == OK && i <= p->parts[0].dims.n[AXIS_POSITION_BIN]; i++)
        p->position_edges[i] = (uint32_t)position_edge(i);
    if (rc != OK)
        profile_close(p);
    else
        *out = p;
    return rc;
}

int profile_open_set(const char *const *paths, size_t n, const char *name, struct profile **out, struct err *err) {
    return open_set(paths, n, MAX_OPEN_FILES, name, out, err);
}

void profile_drop_field(struct profile *p, enum profile_field field) {
    for (size_t i = 0; i < p->n_parts; i++)
        profile_part_close_dataset(&p->parts[i], field);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int profile_list_segments(const char *dir, char ***out, size_t *n, struct err *err) {
    DIR *handle = opendir(dir);
    size_t cap = 0;
    int rc = OK;
    *out = NULL;
    *n = 0;
    if (!handle)
        return err_set(err, ERR_IO, dir, "cannot be read as a directory");
    for (struct dirent *entry; rc == OK && (entry = readdir(handle));) {
        size_t digits = strspn(entry->d_name, "0123456789");
        if (digits < 6 || strcmp(entry->d_name + digits, ".h5") != 0)
            continue;
        rc = mem_grow(out, &cap, *n + 1, sizeof **out, "segments", err);
        if (rc == OK && !((*out)[*n] = file_join(dir, entry->d_name, err)))
            rc = ERR_MEMORY;
        if (rc == OK)
            ++*n;
    }
    closedir(handle);
    if (rc != OK) {
        profile_free_segments(*out, *n);
        *out = NULL;
        *n = 0;
    } else if (*n)
        qsort(*out, *n, sizeof **out, by_name);
    return rc;
}

void profile_free_segments(char **paths, size_t n) {
    for (size_t i = 0; paths && i < n; i++)
        free(paths[i]);
    free(paths);
}

/* ERR_IO for a file that is absent, with the way on when the run was only interrupted. */
static int check_there(const char *path, struct err *err) {
    struct str part = {0};
    if (file_exists(path))
        return OK;
    str_printf(&part, "%s.part", path);
    bool interrupted = !part.failed && file_is_dir(part.data);
    str_free(&part);
    return err_set(err, ERR_IO, path, "there is no such file%s%s%s",
                   interrupted ? ", but the run was interrupted: continue it with --resume, or give " : "",
                   interrupted ? path : "", interrupted ? ".part" : "");
}

int profile_open(const char *path, struct profile **out, struct err *err) {
    char **segments;
    size_t n;
    *out = NULL;
    if (check_there(path, err) != OK)
        return ERR_IO;
    if (!file_is_dir(path))
        return open_set(&path, 1, 1, path, out, err);
    int rc = profile_list_segments(path, &segments, &n, err);
    if (rc != OK)
        return rc;
    if (n == 0)
        rc = err_set(err, ERR_INPUT, path, "holds no closed segment of a run: name a run file in it, or, if one is being "
                     "written here, wait, or continue it with --resume");
    else
        rc = open_set((const char *const *)segments, n, MAX_OPEN_SEGMENTS, path, out, err);
    profile_free_segments(segments, n);
    return rc;
}

void profile_close(struct profile *p) {
    if (!p)
        return;
    for (size_t i = 0; p->parts && i < p->n_parts; i++)
        profile_part_free(&p->parts[i]);
    free(p->parts);
    free(p->runs);
    free(p->path);
    free(p);
}

const char *profile_path(const struct profile *p) {
    return p->path;
}

const struct profile_meta *profile_meta(const struct profile *p) {
    return &p->parts[0].meta;
}

bool profile_is_partial(const struct profile *p) {
    return !p->parts[0].meta.complete;
}

size_t profile_n_sequences(const struct profile *p) {
    return p->n_sequences;
}

uint64_t profile_n_tokens(const struct profile *p) {
    return p->n_tokens;
}

bool profile_has(const struct profile *p, enum profile_field field) {
    return profile_field_present(field, profile_meta(p));
}

size_t profile_row_items(const struct profile *p, enum profile_field field) {
    return profile_field_items(field, &p->parts[0].dims);
}

size_t profile_item_bytes(const struct profile *p, enum profile_field field) {
    return h5_type_size(profile_field_type(field, profile_meta(p)));
}

static int need_field(const struct profile *p, enum profile_field field, struct err *err) {
    if (profile_has(p, field))
        return OK;
    return err_set(err, ERR_INPUT, p->path, "has no %s: it was not recorded", profile_field_name(field));
}

/* The run that holds item `at`, by rows or by tokens. */
static size_t find_run(const struct profile *p, uint64_t at, bool tokens) {
    size_t low = 0, high = p->n_runs;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if ((tokens ? p->runs[middle].token : p->runs[middle].row) <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

int profile_read_rows(struct profile *p, enum profile_field field, uint64_t first, size_t n, void *out, struct err *err) {
    bool tokens = profile_field_kind(field) == FIELD_TOKENS;
    int rc = need_field(p, field, err);
    if (rc != OK || n == 0)
        return rc;
    ASSERT(profile_field_kind(field) != FIELD_SUM && first + n <= (tokens ? p->n_tokens : p->n_sequences));
    size_t row_bytes = profile_row_items(p, field) * profile_item_bytes(p, field);
    unsigned char *to = out;
    for (size_t i = find_run(p, first, tokens); rc == OK && n > 0; i++) {
        const struct profile_run *run = &p->runs[i];
        uint64_t skip = first - (tokens ? run->token : run->row), length = tokens ? run->n_tok : run->n;
        size_t take = length - skip < n ? (size_t)(length - skip) : n;
        make_room(p, run->part);
        rc = profile_part_read_rows(&p->parts[run->part], field, (tokens ? run->part_token : run->part_row) + skip, take, to,
                                    err);
        to += take * row_bytes;
        first += take;
        n -= take;
    }
    return rc;
}

int profile_token_range(struct profile *p, size_t row, uint64_t *first, size_t *n, struct err *err) {
    int rc = need_field(p, PROFILE_TOKEN_ID, err);
    if (rc != OK)
        return rc;
    ASSERT(row < p->n_sequences);
    const struct profile_run *run = &p->runs[find_run(p, row, false)];
    const uint64_t *splits = p->parts[run->part].row_splits + run->part_row + (row - run->row);
    *first = run->token + (splits[0] - run->part_token);
    *n = (size_t)(splits[1] - splits[0]);
    return OK;
}

static void add_sum(enum h5_type type, size_t n, void *to, const void *from) {
    if (type == H5_F64)
        for (size_t i = 0; i < n; i++)
            ((double *)to)[i] += ((const double *)from)[i];
    else
        for (size_t i = 0; i < n; i++)
            ((uint64_t *)to)[i] += ((const uint64_t *)from)[i];
}

int profile_read_sum(struct profile *p, enum profile_field field, void **out, struct err *err) {
    void *sum = NULL, *part = NULL;
    *out = NULL;
    int rc = need_field(p, field, err);
    ASSERT(profile_field_kind(field) == FIELD_SUM);
    for (size_t i = 0; rc == OK && i < p->n_parts; i++) {
        make_room(p, i);
        rc = profile_part_read_sum(&p->parts[i], field, &part, err);
        if (rc == OK && sum)
            add_sum(profile_field_type(field, profile_meta(p)), profile_row_items(p, field), sum, part);
        else if (rc == OK) {
            sum = part;
            part = NULL;
        }
        free(part);
        part = NULL;
    }
    if (rc == OK)
        *out = sum;
    else
        free(sum);
    return rc;
}

int profile_read_bins(struct profile *p, enum profile_field field, int corpus, double **out, size_t *n_bins,
                      struct err *err) {
    void *raw;
    *out = NULL;
    int rc = profile_read_sum(p, field, &raw, err);
    if (rc != OK)
        return rc;
    const struct profile_dims *dims = &p->parts[0].dims;
    size_t n = profile_row_items(p, field) / dims->n[AXIS_CORPUS] / PROFILE_N_GROUPS;
    bool real = profile_field_type(field, profile_meta(p)) == H5_F64;
    double *sum = mem_alloc(n, sizeof *sum, profile_field_name(field), err);
    for (size_t slice = 0; sum && slice < dims->n[AXIS_CORPUS] * PROFILE_N_GROUPS; slice++)
        for (size_t i = 0; i < n && (corpus < 0 || slice / PROFILE_N_GROUPS == (size_t)corpus); i++)
            sum[i] += real ? ((const double *)raw)[slice * n + i] : (double)((const uint64_t *)raw)[slice * n + i];
    free(raw);
    *n_bins = n / dims->n[AXIS_LAYER] / dims->n[AXIS_KV_HEAD];
    *out = sum;
    return sum ? OK : ERR_MEMORY;
}

const float *profile_utility_edges(const struct profile *p, size_t *n_edges) {
    bool scored = profile_meta(p)->score != PROFILE_SCORE_NONE;
    *n_edges = scored ? p->scores.n_bins + 1 : 0;
    return scored ? p->scores.edge : NULL;
}

const uint32_t *profile_position_edges(const struct profile *p, size_t *n_edges) {
    *n_edges = p->parts[0].dims.n[AXIS_POSITION_BIN] + 1;
    return p->position_edges;
}
