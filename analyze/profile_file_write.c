#include <hdf5_hl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "analyze/bins.h"
#include "analyze/h5_output.h"
#include "analyze/profile_attribute.h"
#include "analyze/profile_file.h"
#include "base/file.h"
#include "base/mem.h"

/* Bytes moved at once, and the level of deflate: on scores level 4 takes a tenth off level 1's speed and saves a hundredth
 * (1.16 against 1.17 for f32). */
enum { BLOCK_BYTES = 1 << 22, LEVEL = 1 };

struct out_file {
    const struct profile_columns *columns;
    const char *path; /* of the temporary */
    struct h5_output output;
    hid_t tokens; /* the group, -1 = none */
    struct profile_dims dims;
};

static struct h5_place place_of(const struct out_file *f, const char *object) {
    return (struct h5_place){f->path, object};
}

/* A group (or the root's list) whose members keep the order of creation, which netCDF-4 asks for. */
static hid_t ordered_plist(hid_t class) {
    unsigned order = H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED;
    hid_t plist = H5Pcreate(class);
    if (plist >= 0 && (H5Pset_link_creation_order(plist, order) < 0 || H5Pset_attr_creation_order(plist, order) < 0 ||
                       H5Pset_obj_track_times(plist, 0) < 0)) {
        H5Pclose(plist);
        return -1;
    }
    return plist;
}

static int create_file(struct out_file *f, struct err *err) {
    hid_t plist = ordered_plist(H5P_FILE_CREATE);
    if (plist < 0)
        return h5_fail(err, ERR_IO, place_of(f, NULL), "cannot be created");
    int rc = h5_output_create(f->path, plist, &f->output, err);
    H5Pclose(plist);
    if (rc != OK)
        return rc;
    if (!(f->columns->meta->record & PROFILE_RECORD_TOKENS))
        return OK;
    plist = ordered_plist(H5P_GROUP_CREATE);
    if (plist >= 0)
        f->tokens = H5Gcreate2(f->output.file, "tokens", H5P_DEFAULT, plist, H5P_DEFAULT);
    if (plist >= 0)
        H5Pclose(plist);
    return f->tokens < 0 ? h5_fail(err, ERR_IO, place_of(f, "tokens"), "cannot create the group") : OK;
}

/* An axis without coordinates: netCDF knows it by this name. The dataset takes no room. */
static int put_axis(struct out_file *f, hid_t group, const char *name, size_t length, struct err *err) {
    static const float missing = NAN;
    char title[128];
    struct h5_dataset spec = {.name = name, .units = "1", .long_name = "axis", .type = H5_F32, .fill = &missing, .n_dims = 1,
                              .dims = {length}, .level = -1};
    hid_t dataset;
    snprintf(title, sizeof title, "This is a netCDF dimension but not a netCDF variable.%10zu", length);
    int rc = h5_create(group, &spec, &dataset, place_of(f, name), err);
    if (rc != OK)
        return rc;
    if (H5DSset_scale(dataset, title) < 0)
        rc = h5_fail(err, ERR_IO, place_of(f, name), "cannot make a dimension scale");
    H5Dclose(dataset);
    return rc;
}

/* An axis with coordinates of its own: the edges of bins. */
static int put_edges(struct out_file *f, const char *name, const char *units, const char *title, enum h5_type type,
                     const void *edges, size_t n, struct err *err) {
    static const float missing_f32 = NAN;
    static const uint64_t missing_u64 = UINT64_MAX;
    struct h5_dataset spec = {.name = name, .units = units, .long_name = title, .type = type, .n_dims = 1, .dims = {n},
                              .fill = type == H5_F32 ? (const void *)&missing_f32 : &missing_u64, .level = LEVEL};
    hid_t dataset;
    int rc = h5_create(f->output.file, &spec, &dataset, place_of(f, name), err);
    if (rc != OK)
        return rc;
    rc = h5_write_rows(dataset, type, 0, n, edges, place_of(f, name), err);
    if (rc == OK && H5DSset_scale(dataset, name) < 0)
        rc = h5_fail(err, ERR_IO, place_of(f, name), "cannot make a dimension scale");
    H5Dclose(dataset);
    return rc;
}

static int attach(struct out_file *f, hid_t dataset, hid_t group, const char *axis, unsigned i, struct err *err) {
    hid_t scale = H5Dopen2(group, axis, H5P_DEFAULT);
    int rc = OK;
    if (scale < 0 || H5DSattach_scale(dataset, scale, i) < 0)
        rc = h5_fail(err, ERR_IO, place_of(f, axis), "cannot attach the dimension scale");
    if (scale >= 0)
        H5Dclose(scale);
    return rc;
}

/* Attaches axes (names, NULL-ended) of the root to a dataset that exists already. */
static int attach_named(struct out_file *f, const char *name, const char *const *axes, struct err *err) {
    hid_t dataset = H5Dopen2(f->output.file, name, H5P_DEFAULT);
    int rc = dataset < 0 ? h5_fail(err, ERR_IO, place_of(f, name), "cannot be opened") : OK;
    for (unsigned i = 0; rc == OK && axes[i]; i++)
        rc = attach(f, dataset, f->output.file, axes[i], i, err);
    if (dataset >= 0)
        H5Dclose(dataset);
    return rc;
}

/* A small dataset of u32 in the root. */
static int put_table(struct out_file *f, const char *name, const char *units, const char *title, const char *const *axes,
                     const size_t *dims, const uint32_t *data, struct err *err) {
    static const uint32_t missing = UINT32_MAX;
    struct h5_dataset spec = {.name = name, .units = units, .long_name = title, .type = H5_U32, .fill = &missing,
                              .level = LEVEL};
    hid_t dataset;
    while (axes[spec.n_dims]) {
        spec.dims[spec.n_dims] = dims[spec.n_dims];
        spec.n_dims++;
    }
    int rc = h5_create(f->output.file, &spec, &dataset, place_of(f, name), err);
    if (rc != OK)
        return rc;
    rc = h5_write_rows(dataset, H5_U32, 0, dims[0], data, place_of(f, name), err);
    H5Dclose(dataset);
    return rc == OK ? attach_named(f, name, axes, err) : rc;
}

static int put_strings(struct out_file *f, const char *name, const char *title, const char *axis, const char *const *text,
                       size_t n, struct err *err) {
    int rc = h5_write_strings(f->output.file, name, title, text, n, place_of(f, name), err);
    return rc == OK ? attach_named(f, name, (const char *const[]){axis, NULL}, err) : rc;
}

static int put_axes(struct out_file *f, struct err *err) {
    int rc = OK;
    for (int axis = 1; rc == OK && axis < N_AXES; axis++) {
        if (axis == AXIS_SEQUENCE || (axis != AXIS_TOKEN && f->dims.n[axis] > 0))
            rc = put_axis(f, f->output.file, profile_axis_name((enum profile_axis)axis), f->dims.n[axis], err);
    }
    if (rc == OK)
        rc = put_axis(f, f->output.file, "source", f->columns->meta->n_sources, err);
    if (rc == OK && f->tokens >= 0)
        rc = put_axis(f, f->tokens, "token", f->columns->n_tokens, err);
    if (rc == OK && f->tokens >= 0)
        rc = put_axis(f, f->tokens, "row_split", f->columns->n_sequences + 1, err);
    return rc;
}

static int put_all_edges(struct out_file *f, struct err *err) {
    const struct profile_meta *meta = f->columns->meta;
    uint64_t edges[1 << 12];
    size_t n = f->dims.n[AXIS_POSITION_BIN] + 1;
    for (size_t i = 0; i < n; i++)
        edges[i] = position_edge(i);
    int rc = put_edges(f, "position_edge", "token", "first position of each bin, and the end of the last", H5_U64, edges, n,
                       err);
    if (rc == OK && meta->score != PROFILE_SCORE_NONE) {
        struct score_bins bins;
        score_bins_init(&bins, meta->score == PROFILE_SCORE_SIGMOID, meta->score_min, meta->score_max);
        rc = put_edges(f, "utility_edge", "1", "lower edge of each bin of scores, and the closed end of the last", H5_F32,
                       bins.edge, bins.n_bins + 1, err);
    }
    for (size_t i = 0; i < meta->n_distance_edges; i++)
        edges[i] = meta->distance_edges[i];
    if (rc == OK && meta->n_distance_edges)
        rc = put_edges(f, "distance_edge", "token", "least query-key distance of each bin, and the end of the last", H5_U64,
                       edges, meta->n_distance_edges, err);
    return rc;
}

static int put_sources(struct out_file *f, struct err *err) {
    const struct profile_meta *meta = f->columns->meta;
    const char **text = mem_alloc(meta->n_sources, sizeof *text, "source names", err);
    uint32_t *corpus = mem_alloc(meta->n_sources, sizeof *corpus, "source corpora", err);
    int rc = text && corpus ? OK : ERR_MEMORY;
    for (size_t i = 0; rc == OK && i < meta->n_sources; i++) {
        text[i] = meta->sources[i].name;
        corpus[i] = meta->sources[i].corpus;
    }
    if (rc == OK)
        rc = put_strings(f, "source_name", "file of the corpus", "source", text, meta->n_sources, err);
    for (size_t i = 0; rc == OK && i < meta->n_sources; i++)
        text[i] = meta->sources[i].hash;
    if (rc == OK)
        rc = put_strings(f, "source_hash", "XXH3-128 of the file's bytes", "source", text, meta->n_sources, err);
    if (rc == OK)
        rc = put_table(f, "source_corpus", "1", "corpus of the command line that the file belongs to",
                       (const char *const[]){"source", NULL}, &meta->n_sources, corpus, err);
    free(corpus);
    free(text);
    return rc;
}

static int put_windows(struct out_file *f, struct err *err) {
    const struct profile_meta *meta = f->columns->meta;
    size_t dims[2] = {meta->n_layers, meta->n_kv_heads};
    int rc = put_table(f, "layer_sliding_window", "token", "the model's own sliding window, 0 = full attention",
                       (const char *const[]){"layer", NULL}, dims, meta->sliding_window, err);
    if (rc == OK)
        rc = put_table(f, "head_window", "token", "window of the policy, or the model's own",
                       (const char *const[]){"layer", "kv_head", NULL}, dims, meta->head_window, err);
    return rc;
}

static int put_lists(struct out_file *f, struct err *err) {
    const struct profile_meta *meta = f->columns->meta;
    int rc = put_strings(f, "corpus_name", "corpus as given on the command line", "corpus", meta->corpus_names,
                         meta->n_corpora, err);
    if (rc == OK)
        rc = put_sources(f, err);
    if (rc == OK && meta->n_classes)
        rc = put_strings(f, "token_class_name", "token class", "token_class", meta->class_names, meta->n_classes, err);
    return rc == OK ? put_windows(f, err) : rc;
}

/* Copies the rows of a field block by block, blocks ending where chunks do. */
static int copy_rows(struct out_file *f, enum profile_field field, const struct h5_dataset *spec, hid_t dataset,
                     struct err *err) {
    const struct profile_columns *columns = f->columns;
    hsize_t chunk[H5_MAX_DIMS];
    size_t total = spec->dims[0], row_bytes = profile_field_items(field, &f->dims) * h5_type_size(spec->type);
    h5_chunk(spec, chunk);
    size_t block = BLOCK_BYTES / row_bytes / chunk[0] * chunk[0];
    block = block ? block : chunk[0];
    block = block < total ? block : total;
    void *buffer = mem_alloc(block, row_bytes, "a block of the run file", err);
    int rc = buffer ? OK : ERR_MEMORY;
    for (size_t first = 0; rc == OK && first < total; first += block) {
        size_t n = total - first < block ? total - first : block;
        rc = columns->read_rows(columns->self, field, first, n, buffer, err);
        if (rc == OK)
            rc = h5_write_rows(dataset, spec->type, first, n, buffer, place_of(f, profile_field_name(field)), err);
        if (rc == OK)
            rc = h5_output_check(&f->output, f->path, err);
    }
    free(buffer);
    return rc;
}

static int copy_sum(struct out_file *f, enum profile_field field, const struct h5_dataset *spec, hid_t dataset,
                    struct err *err) {
    void *data = NULL;
    int rc = f->columns->read_sum(f->columns->self, field, &data, err);
    if (rc == OK)
        rc = h5_write_rows(dataset, spec->type, 0, spec->dims[0], data, place_of(f, profile_field_name(field)), err);
    free(data);
    return rc;
}

static int attach_axes(struct out_file *f, enum profile_field field, hid_t dataset, struct err *err) {
    const uint8_t *axes = profile_field_axes(field);
    int rc = OK;
    for (unsigned i = 0; rc == OK && i < 6 && axes[i] != AXIS_NONE; i++) {
        hid_t group = axes[i] == AXIS_TOKEN ? f->tokens : f->output.file;
        rc = attach(f, dataset, group, profile_axis_name((enum profile_axis)axes[i]), i, err);
    }
    return rc;
}

static int put_field(struct out_file *f, enum profile_field field, struct err *err) {
    struct h5_dataset spec;
    hid_t dataset;
    enum field_kind kind = profile_field_kind(field);
    profile_field_spec(field, f->columns->meta, &f->dims, LEVEL, &spec);
    hid_t group = kind == FIELD_TOKENS ? f->tokens : f->output.file;
    int rc = h5_create(group, &spec, &dataset, place_of(f, profile_field_name(field)), err);
    if (rc != OK)
        return rc;
    rc = attach_axes(f, field, dataset, err);
    if (rc == OK && field == PROFILE_TOKEN_UTILITY && spec.type == H5_U8) {
        float step = 1 / 254.0f; /* readers that know the convention decode by themselves */
        rc = h5_put_number(dataset, "scale_factor", H5_F32, &step, place_of(f, "scale_factor"), err);
    }
    if (rc == OK)
        rc = kind == FIELD_SUM ? copy_sum(f, field, &spec, dataset, err)
             : spec.dims[0]    ? copy_rows(f, field, &spec, dataset, err)
                               : OK;
    H5Dclose(dataset);
    return rc;
}

static int put_row_splits(struct out_file *f, struct err *err) {
    static const uint64_t missing = UINT64_MAX;
    struct h5_place place = place_of(f, "tokens/row_splits");
    struct h5_dataset spec = {.name = "row_splits", .units = "token", .type = H5_U64, .fill = &missing, .n_dims = 1,
                              .long_name = "tokens of sequence i are row_splits[i] to row_splits[i + 1] - 1",
                              .dims = {f->columns->n_sequences + 1}, .level = LEVEL};
    hid_t dataset;
    int rc = h5_create(f->tokens, &spec, &dataset, place, err);
    if (rc != OK)
        return rc;
    rc = h5_write_rows(dataset, H5_U64, 0, spec.dims[0], f->columns->row_splits, place, err);
    if (rc == OK)
        rc = attach(f, dataset, f->tokens, "row_split", 0, err);
    H5Dclose(dataset);
    return rc;
}

static int put_everything(struct out_file *f, struct err *err) {
    int rc = create_file(f, err);
    if (rc == OK)
        rc = profile_attributes_write(f->output.file, f->columns->meta, f->path, err);
    if (rc == OK)
        rc = put_axes(f, err);
    if (rc == OK)
        rc = put_all_edges(f, err);
    if (rc == OK)
        rc = put_lists(f, err);
    for (int field = 0; rc == OK && field < PROFILE_N_FIELDS; field++)
        if (profile_field_present((enum profile_field)field, f->columns->meta))
            rc = put_field(f, (enum profile_field)field, err);
    if (rc == OK && f->tokens >= 0)
        rc = put_row_splits(f, err);
    return rc;
}

int profile_file_write(const char *path, const char *temporary, const struct profile_columns *columns, struct err *err) {
    struct out_file f = {.columns = columns, .path = temporary, .output = {-1, -1, 0}, .tokens = -1};
    h5_quiet();
    profile_dims_of(columns->meta, &f.dims);
    f.dims.n[AXIS_SEQUENCE] = columns->n_sequences;
    f.dims.n[AXIS_TOKEN] = columns->n_tokens;
    int rc = put_everything(&f, err);
    if (f.tokens >= 0)
        H5Gclose(f.tokens);
    int closed = h5_output_close(&f.output, temporary, rc == OK ? err : NULL);
    rc = rc == OK ? closed : rc;
    if (rc == OK)
        rc = file_publish(temporary, path, err);
    if (rc != OK)
        unlink(temporary);
    return rc;
}
