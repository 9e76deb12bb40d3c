#include <hdf5_hl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "analyze/bins.h"
#include "analyze/profile_attribute.h"
#include "analyze/profile_file.h"
#include "base/mem.h"

static struct h5_place place_of(const struct profile_part *part, const char *object) {
    return (struct h5_place){part->path, object};
}

static int open_file(struct profile_part *part, struct err *err) {
    struct stat st;
    h5_quiet();
    if (part->file >= 0)
        return OK;
    if (stat(part->path, &st) != 0)
        return err_set(err, ERR_IO, part->path, "cannot be opened: there is no such file");
    if (S_ISREG(st.st_mode) && H5Fis_hdf5(part->path) <= 0) {
        H5Eclear2(H5E_DEFAULT);
        return err_set(err, ERR_INPUT, part->path, "is not an HDF5 file, or its beginning is damaged");
    }
    part->file = H5Fopen(part->path, H5F_ACC_RDONLY, H5P_DEFAULT);
    return part->file < 0 ? h5_fail(err, ERR_INPUT, place_of(part, NULL), "cannot be opened as HDF5") : OK;
}

void profile_part_close_dataset(struct profile_part *part, enum profile_field field) {
    if (part->dataset[field] >= 0)
        H5Dclose(part->dataset[field]);
    part->dataset[field] = -1;
}

void profile_part_close_file(struct profile_part *part) {
    for (int i = 0; i < PROFILE_N_FIELDS; i++)
        profile_part_close_dataset(part, (enum profile_field)i);
    if (part->file >= 0)
        H5Fclose(part->file);
    part->file = -1;
}

void profile_part_free(struct profile_part *part) {
    if (!part->path)
        return;
    profile_part_close_file(part);
    profile_meta_free(&part->meta);
    free(part->row_splits);
    free(part->index);
    free(part->path);
    *part = (struct profile_part){0};
}

/* Reads a whole one-dimensional dataset of the expected length (SIZE_MAX: any). Free *out. */
static int read_vector(struct profile_part *part, const char *name, enum h5_type type, size_t *n, void **out,
                       struct err *err) {
    hid_t dataset;
    size_t dims[H5_MAX_DIMS] = {*n};
    int rc = h5_open(part->file, name, type, 1, dims, &dataset, place_of(part, name), err);
    if (rc != OK)
        return rc;
    if (!(*out = mem_alloc(dims[0], h5_type_size(type), name, err)))
        rc = ERR_MEMORY;
    else
        rc = h5_read_rows(dataset, type, 0, dims[0], *out, place_of(part, name), err);
    if (rc != OK) {
        free(*out);
        *out = NULL;
    }
    *n = dims[0];
    H5Dclose(dataset);
    return rc;
}

/* A table of u32 into memory of the meta. */
static int read_table(struct profile_part *part, const char *name, size_t rows, size_t columns, const uint32_t **out,
                      struct err *err) {
    hid_t dataset;
    size_t dims[H5_MAX_DIMS] = {rows, columns};
    int rc = h5_open(part->file, name, H5_U32, columns ? 2 : 1, dims, &dataset, place_of(part, name), err);
    if (rc != OK)
        return rc;
    uint32_t *data = profile_meta_alloc(&part->meta, rows * (columns ? columns : 1), sizeof *data, err);
    rc = data ? h5_read_rows(dataset, H5_U32, 0, rows, data, place_of(part, name), err) : ERR_MEMORY;
    *out = data;
    H5Dclose(dataset);
    return rc;
}

static int read_names(struct profile_part *part, const char *name, const char *const **out, size_t *n, struct err *err) {
    char **text;
    int rc = h5_read_strings(part->file, name, &text, n, place_of(part, name), err);
    if (rc != OK)
        return rc;
    const char **copy = profile_meta_alloc(&part->meta, *n, sizeof *copy, err);
    for (size_t i = 0; copy && rc == OK && i < *n; i++)
        if (!(copy[i] = profile_meta_string(&part->meta, text[i], err)))
            rc = ERR_MEMORY;
    h5_free_strings(text, *n);
    *out = copy;
    return copy ? rc : ERR_MEMORY;
}

static int read_sources(struct profile_part *part, struct err *err) {
    const char *const *name, *const *hash;
    const uint32_t *corpus;
    size_t n, n_hashes;
    int rc = read_names(part, "source_name", &name, &n, err);
    if (rc == OK)
        rc = read_names(part, "source_hash", &hash, &n_hashes, err);
    if (rc == OK && n_hashes != n)
        rc = err_set(err, ERR_INPUT, part->path, "source_hash has %zu items, source_name has %zu", n_hashes, n);
    if (rc == OK)
        rc = read_table(part, "source_corpus", n, 0, &corpus, err);
    if (rc != OK)
        return rc;
    struct profile_source *sources = profile_meta_alloc(&part->meta, n, sizeof *sources, err);
    if (!sources)
        return ERR_MEMORY;
    for (size_t i = 0; i < n; i++)
        sources[i] = (struct profile_source){name[i], hash[i], corpus[i]};
    part->meta.n_sources = n;
    part->meta.sources = sources;
    return OK;
}

static int read_distance_edges(struct profile_part *part, struct err *err) {
    void *raw = NULL;
    size_t n = SIZE_MAX;
    if (!(part->meta.record & PROFILE_RECORD_ATTENTION))
        return OK;
    int rc = read_vector(part, "distance_edge", H5_U64, &n, &raw, err);
    if (rc != OK)
        return rc;
    const uint64_t *wide = raw;
    uint32_t *edges = profile_meta_alloc(&part->meta, n, sizeof *edges, err);
    for (size_t i = 0; edges && i < n; i++) {
        if (wide[i] > UINT32_MAX)
            rc = err_set(err, ERR_INPUT, part->path, "distance_edge: item %zu is out of range", i);
        edges[i] = (uint32_t)wide[i];
    }
    part->meta.distance_edges = edges;
    part->meta.n_distance_edges = n;
    free(raw);
    return edges ? rc : ERR_MEMORY;
}

/* Bin edges follow from the settings: what the file says must agree, or its counts would be read wrongly. */
static int check_edges(struct profile_part *part, struct err *err) {
    const struct profile_meta *meta = &part->meta;
    void *raw = NULL;
    size_t n = part->dims.n[AXIS_POSITION_BIN] + 1;
    int rc = read_vector(part, "position_edge", H5_U64, &n, &raw, err);
    for (size_t i = 0; rc == OK && i < n; i++)
        if (((const uint64_t *)raw)[i] != position_edge(i))
            rc = err_set(err, ERR_INPUT, part->path, "position_edge: item %zu is not the one of this format", i);
    free(raw);
    if (rc != OK || meta->score == PROFILE_SCORE_NONE)
        return rc;
    struct score_bins bins;
    score_bins_init(&bins, meta->score == PROFILE_SCORE_SIGMOID, meta->score_min, meta->score_max);
    n = bins.n_bins + 1;
    raw = NULL;
    rc = read_vector(part, "utility_edge", H5_F32, &n, &raw, err);
    if (rc == OK && memcmp(raw, bins.edge, n * sizeof(float)) != 0)
        rc = err_set(err, ERR_INPUT, part->path, "utility_edge: the bins are not the ones of this format");
    free(raw);
    return rc;
}

/* Arrays of the meta and all axes but sequences and tokens. */
static int read_lists(struct profile_part *part, struct err *err) {
    struct profile_meta *meta = &part->meta;
    if (meta->n_layers < 1 || meta->n_layers > PROFILE_MAX_LAYERS || meta->n_kv_heads < 1 ||
        meta->n_kv_heads > PROFILE_MAX_KV_HEADS)
        return err_set(err, ERR_INPUT, part->path, "n_layers is %u and n_kv_heads %u, expected 1 to %d and 1 to %d",
                       meta->n_layers, meta->n_kv_heads, PROFILE_MAX_LAYERS, PROFILE_MAX_KV_HEADS);
    int rc = read_names(part, "corpus_name", &meta->corpus_names, &meta->n_corpora, err);
    if (rc == OK)
        rc = read_sources(part, err);
    if (rc == OK && (meta->record & PROFILE_RECORD_CLASSES))
        rc = read_names(part, "token_class_name", &meta->class_names, &meta->n_classes, err);
    if (rc == OK)
        rc = read_table(part, "layer_sliding_window", meta->n_layers, 0, &meta->sliding_window, err);
    if (rc == OK)
        rc = read_table(part, "head_window", meta->n_layers, meta->n_kv_heads, &meta->head_window, err);
    if (rc == OK)
        rc = read_distance_edges(part, err);
    if (rc == OK)
        rc = profile_meta_check(meta, part->path, err);
    if (rc != OK)
        return rc;
    profile_dims_of(meta, &part->dims);
    return check_edges(part, err);
}

static int read_splits(struct profile_part *part, struct err *err) {
    size_t n = part->dims.n[AXIS_SEQUENCE] + 1;
    void *raw = NULL;
    if (!(part->meta.record & PROFILE_RECORD_TOKENS))
        return OK;
    int rc = read_vector(part, "tokens/row_splits", H5_U64, &n, &raw, err);
    part->row_splits = raw;
    for (size_t i = 1; rc == OK && i < n; i++)
        if (part->row_splits[i] < part->row_splits[i - 1])
            rc = err_set(err, ERR_INPUT, part->path, "tokens/row_splits: item %zu is below the one before it", i);
    if (rc == OK && part->row_splits[0] != 0)
        rc = err_set(err, ERR_INPUT, part->path, "tokens/row_splits does not begin with 0");
    if (rc == OK)
        part->dims.n[AXIS_TOKEN] = (size_t)part->row_splits[n - 1];
    return rc;
}

static int open_dataset(struct profile_part *part, enum profile_field field, struct err *err) {
    struct h5_dataset spec;
    size_t dims[H5_MAX_DIMS];
    int rc = open_file(part, err);
    if (rc != OK || part->dataset[field] >= 0)
        return rc;
    profile_field_spec(field, &part->meta, &part->dims, 0, &spec);
    for (int i = 0; i < spec.n_dims; i++)
        dims[i] = (size_t)spec.dims[i];
    const char *name = profile_field_name(field);
    return h5_open(part->file, name, spec.type, spec.n_dims, dims, &part->dataset[field], place_of(part, name), err);
}

/* Every dataset that the settings promise must be there with the right shape. */
static int check_datasets(struct profile_part *part, struct err *err) {
    int rc = OK;
    for (int field = 0; rc == OK && field < PROFILE_N_FIELDS; field++)
        if (profile_field_present((enum profile_field)field, &part->meta))
            rc = open_dataset(part, (enum profile_field)field, err);
    return rc;
}

static int read_index(struct profile_part *part, struct err *err) {
    void *raw = NULL;
    size_t n = SIZE_MAX;
    int rc = read_vector(part, "sequence_index", H5_U64, &n, &raw, err);
    part->index = raw;
    part->dims.n[AXIS_SEQUENCE] = n;
    for (size_t i = 1; rc == OK && i < n; i++)
        if (part->index[i] <= part->index[i - 1])
            rc = err_set(err, ERR_INPUT, part->path, "sequence_index does not ascend at row %zu", i);
    return rc;
}

int profile_part_open(const char *path, struct profile_part *out, struct err *err) {
    *out = (struct profile_part){.file = -1};
    for (int i = 0; i < PROFILE_N_FIELDS; i++)
        out->dataset[i] = -1;
    if (!(out->path = mem_strdup(path, err)))
        return ERR_MEMORY;
    int rc = open_file(out, err);
    if (rc == OK)
        rc = profile_attributes_read(out->file, path, &out->meta, err);
    if (rc == OK)
        rc = read_lists(out, err);
    if (rc == OK)
        rc = read_index(out, err);
    if (rc == OK)
        rc = read_splits(out, err);
    if (rc == OK)
        rc = check_datasets(out, err);
    if (rc != OK)
        profile_part_free(out);
    return rc;
}

int profile_part_read_rows(struct profile_part *part, enum profile_field field, uint64_t first, size_t n, void *out,
                           struct err *err) {
    int rc = open_dataset(part, field, err);
    if (rc != OK)
        return rc;
    return h5_read_rows(part->dataset[field], profile_field_type(field, &part->meta), first, n, out,
                        place_of(part, profile_field_name(field)), err);
}

int profile_part_read_sum(struct profile_part *part, enum profile_field field, void **out, struct err *err) {
    *out = NULL;
    int rc = open_dataset(part, field, err);
    if (rc != OK)
        return rc;
    enum h5_type type = profile_field_type(field, &part->meta);
    void *data = mem_alloc(profile_field_items(field, &part->dims), h5_type_size(type), profile_field_name(field), err);
    if (!data)
        return ERR_MEMORY;
    rc = h5_read_rows(part->dataset[field], type, 0, part->dims.n[AXIS_CORPUS], data,
                      place_of(part, profile_field_name(field)), err);
    if (rc != OK)
        free(data);
    else
        *out = data;
    return rc;
}
