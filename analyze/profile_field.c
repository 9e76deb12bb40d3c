#include "analyze/profile_field.h"

#include <math.h>
#include <string.h>

#include "analyze/bins.h"
#include "base/mem.h"

struct field_info {
    const char *name, *units, *title;
    enum h5_type type;
    enum field_kind kind;
    uint8_t axes[6];
};

#define PER_SEQUENCE FIELD_ROWS, {AXIS_SEQUENCE}
#define PER_HEAD FIELD_ROWS, {AXIS_SEQUENCE, AXIS_LAYER, AXIS_KV_HEAD}
#define SUMMED(axis) FIELD_SUM, {AXIS_CORPUS, AXIS_GROUP, AXIS_LAYER, AXIS_KV_HEAD, axis}
#define PER_TOKEN FIELD_TOKENS, {AXIS_TOKEN}
#define PER_TOKEN_HEAD FIELD_TOKENS, {AXIS_TOKEN, AXIS_LAYER, AXIS_KV_HEAD}

static const struct field_info fields[PROFILE_N_FIELDS] = {
    [PROFILE_SEQUENCE_INDEX] = {"sequence_index", "1", "position in the global list of sequences", H5_U64, PER_SEQUENCE},
    [PROFILE_SEQUENCE_LENGTH] = {"sequence_length", "token", "tokens of the sequence, specials included", H5_U32,
                                 PER_SEQUENCE},
    [PROFILE_N_PREDICTED] = {"n_predicted", "token", "tokens whose loss was counted", H5_U32, PER_SEQUENCE},
    [PROFILE_N_ARGMAX] = {"n_argmax", "token", "predicted tokens that were the most likely ones", H5_U32, PER_SEQUENCE},
    [PROFILE_NLL_SUM] = {"nll_sum", "nat", "sum of the negative log-likelihoods of the predicted tokens", H5_F64,
                         PER_SEQUENCE},
    [PROFILE_SEQUENCE_DOCUMENT] = {"sequence_document", "1", "number of the document over all files", H5_U64, PER_SEQUENCE},
    [PROFILE_SEQUENCE_OFFSET] = {"sequence_offset", "token", "first text token of the sequence in its document", H5_U64,
                                 PER_SEQUENCE},
    [PROFILE_SEQUENCE_SOURCE] = {"sequence_source", "1", "index into source_name", H5_U32, PER_SEQUENCE},
    [PROFILE_SEQUENCE_BATCH] = {"sequence_batch", "1", "batch of the plan that computed the sequence", H5_U64, PER_SEQUENCE},
    [PROFILE_CACHE_BYTES_USED] = {"cache_bytes_used", "byte", "occupied cache slots after the last token", H5_U64,
                                  PER_SEQUENCE},
    [PROFILE_CACHE_BYTES_ALLOCATED] = {"cache_bytes_allocated", "byte", "cache pages held after the last token", H5_U64,
                                       PER_SEQUENCE},
    [PROFILE_CACHE_BYTES_FULL] = {"cache_bytes_full", "byte", "cache of all tokens under the model's own pattern", H5_U64,
                                  PER_SEQUENCE},
    [PROFILE_N_SCORED] = {"n_scored", "token", "pairs with a gate or score", H5_U32, PER_HEAD},
    [PROFILE_N_OPEN] = {"n_open", "token", "pairs whose gate is open by score alone", H5_U32, PER_HEAD},
    [PROFILE_N_LEFT_WINDOW] = {"n_left_window", "token", "pairs that left the window, sinks not counted", H5_U32, PER_HEAD},
    [PROFILE_N_KEPT] = {"n_kept", "token", "pairs that left the window and are resident after the last token", H5_U32,
                        PER_HEAD},
    [PROFILE_VISIBLE_PAIRS] = {"visible_pairs", "1", "query-key pairs attended over the whole run", H5_U64, PER_HEAD},
    [PROFILE_UTILITY_SUM] = {"utility_sum", "1", "sum of the scores", H5_F64, PER_HEAD},
    [PROFILE_FAR_ATTENTION_SUM] = {"far_attention_sum", "1",
                                   "attention mass on keys outside window and sinks, summed over queries", H5_F64, PER_HEAD},
    [PROFILE_SINK_ATTENTION_SUM] = {"sink_attention_sum", "1", "attention mass on sinks, summed over queries", H5_F64,
                                    PER_HEAD},
    [PROFILE_ATTENTION_QUERIES] = {"attention_queries", "1", "queries behind the attention sums", H5_U64, PER_HEAD},
    [PROFILE_UTILITY_HISTOGRAM] = {"utility_histogram", "token", "scores by value, edges in utility_edge", H5_U64,
                                   SUMMED(AXIS_UTILITY_BIN)},
    [PROFILE_POSITION_SCORED] = {"position_scored", "token", "scored pairs by position, edges in position_edge", H5_U64,
                                 SUMMED(AXIS_POSITION_BIN)},
    [PROFILE_POSITION_OPEN] = {"position_open", "token", "open gates by position, edges in position_edge", H5_U64,
                               SUMMED(AXIS_POSITION_BIN)},
    [PROFILE_CLASS_SCORED] = {"class_scored", "token", "scored pairs by token class", H5_U64, SUMMED(AXIS_TOKEN_CLASS)},
    [PROFILE_CLASS_OPEN] = {"class_open", "token", "open gates by token class", H5_U64, SUMMED(AXIS_TOKEN_CLASS)},
    [PROFILE_ATTENTION_DISTANCE] = {"attention_distance", "1", "attention mass by distance, edges in distance_edge", H5_F64,
                                    SUMMED(AXIS_DISTANCE_BIN)},
    [PROFILE_TOKEN_ID] = {"tokens/id", "1", "token id", H5_I32, PER_TOKEN},
    [PROFILE_TOKEN_NLL] = {"tokens/nll", "nat", "negative log-likelihood of this token", H5_F32, PER_TOKEN},
    [PROFILE_TOKEN_IS_ARGMAX] = {"tokens/is_argmax", "1", "1 where this token was the most likely one, 0 where not", H5_U8,
                                 PER_TOKEN},
    [PROFILE_TOKEN_UTILITY] = {"tokens/utility", "1", "score", H5_F32, PER_TOKEN_HEAD},
    [PROFILE_TOKEN_OPEN] = {"tokens/open", "1", "1 where the gate is open by score alone, 0 where closed", H5_U8,
                            PER_TOKEN_HEAD},
    [PROFILE_TOKEN_FUTURE_MAX] = {"tokens/attention_future_max", "1",
                                  "largest attention weight from queries beyond the window", H5_F32, PER_TOKEN_HEAD},
    [PROFILE_TOKEN_FUTURE_MEAN] = {"tokens/attention_future_mean", "1",
                                   "mean attention weight from queries beyond the window", H5_F32, PER_TOKEN_HEAD},
};

static const char *const axis_names[N_AXES] = {
    "",           "sequence",    "layer",        "kv_head",     "corpus",       "group",
    "utility_bin", "position_bin", "token_class", "distance_bin", "token",
};

const char *profile_axis_name(enum profile_axis axis) {
    return axis_names[axis];
}

const char *profile_field_name(enum profile_field field) {
    return fields[field].name;
}

const char *profile_field_units(enum profile_field field) {
    return fields[field].units;
}

const char *profile_field_title(enum profile_field field) {
    return fields[field].title;
}

enum field_kind profile_field_kind(enum profile_field field) {
    return fields[field].kind;
}

const uint8_t *profile_field_axes(enum profile_field field) {
    return fields[field].axes;
}

void profile_dims_of(const struct profile_meta *meta, struct profile_dims *dims) {
    struct score_bins scores;
    memset(dims, 0, sizeof *dims);
    dims->n[AXIS_LAYER] = meta->n_layers;
    dims->n[AXIS_KV_HEAD] = meta->n_kv_heads;
    dims->n[AXIS_CORPUS] = meta->n_corpora;
    dims->n[AXIS_GROUP] = PROFILE_N_GROUPS;
    if (meta->score != PROFILE_SCORE_NONE) {
        score_bins_init(&scores, meta->score == PROFILE_SCORE_SIGMOID, meta->score_min, meta->score_max);
        dims->n[AXIS_UTILITY_BIN] = scores.n_bins;
    }
    dims->n[AXIS_POSITION_BIN] = position_bin(meta->max_length - 1) + 1;
    dims->n[AXIS_TOKEN_CLASS] = meta->n_classes;
    dims->n[AXIS_DISTANCE_BIN] = meta->n_distance_edges ? meta->n_distance_edges - 1 : 0;
}

bool profile_field_present(enum profile_field field, const struct profile_meta *meta) {
    uint32_t record = meta->record;
    switch (field) {
    case PROFILE_N_ARGMAX: return meta->schema_minor >= 1;
    case PROFILE_TOKEN_IS_ARGMAX: return meta->schema_minor >= 1 && (record & PROFILE_RECORD_TOKENS);
    case PROFILE_UTILITY_SUM:
    case PROFILE_UTILITY_HISTOGRAM: return meta->score != PROFILE_SCORE_NONE;
    case PROFILE_CLASS_SCORED:
    case PROFILE_CLASS_OPEN: return record & PROFILE_RECORD_CLASSES;
    case PROFILE_FAR_ATTENTION_SUM:
    case PROFILE_SINK_ATTENTION_SUM:
    case PROFILE_ATTENTION_QUERIES:
    case PROFILE_ATTENTION_DISTANCE: return record & PROFILE_RECORD_ATTENTION;
    case PROFILE_TOKEN_ID:
    case PROFILE_TOKEN_NLL: return record & PROFILE_RECORD_TOKENS;
    case PROFILE_TOKEN_UTILITY: return record & (PROFILE_RECORD_UTILITY | PROFILE_RECORD_UTILITY_U8);
    case PROFILE_TOKEN_OPEN: return record & PROFILE_RECORD_OPEN;
    case PROFILE_TOKEN_FUTURE_MAX:
    case PROFILE_TOKEN_FUTURE_MEAN: return record & PROFILE_RECORD_ORACLE;
    default: return true;
    }
}

enum h5_type profile_field_type(enum profile_field field, const struct profile_meta *meta) {
    bool rounded = field == PROFILE_TOKEN_UTILITY && (meta->record & PROFILE_RECORD_UTILITY_U8);
    return rounded ? H5_U8 : fields[field].type;
}

/* Counts have no value to spare but their largest; floats have NaN. */
const void *profile_field_fill(enum profile_field field, const struct profile_meta *meta) {
    static const uint8_t none_u8 = UINT8_MAX;
    static const int32_t none_i32 = -1;
    static const uint32_t none_u32 = UINT32_MAX;
    static const uint64_t none_u64 = UINT64_MAX;
    static const float none_f32 = NAN;
    static const double none_f64 = NAN;
    switch (profile_field_type(field, meta)) {
    case H5_U8: return &none_u8;
    case H5_I32: return &none_i32;
    case H5_U32: return &none_u32;
    case H5_U64: return &none_u64;
    case H5_F32: return &none_f32;
    default: return &none_f64;
    }
}

size_t profile_field_items(enum profile_field field, const struct profile_dims *dims) {
    size_t n = 1;
    for (int i = fields[field].kind == FIELD_SUM ? 0 : 1; i < 6 && fields[field].axes[i] != AXIS_NONE; i++)
        if (!size_mul(n, dims->n[fields[field].axes[i]], &n))
            return SIZE_MAX;
    return n;
}

void profile_field_spec(enum profile_field field, const struct profile_meta *meta, const struct profile_dims *dims,
                        int level, struct h5_dataset *spec) {
    const struct field_info *info = &fields[field];
    const char *slash = strchr(info->name, '/');
    *spec = (struct h5_dataset){.name = slash ? slash + 1 : info->name,
                                .units = info->units,
                                .long_name = info->title,
                                .type = profile_field_type(field, meta),
                                .fill = profile_field_fill(field, meta),
                                .level = level};
    while (spec->n_dims < 6 && info->axes[spec->n_dims] != AXIS_NONE) {
        spec->dims[spec->n_dims] = dims->n[info->axes[spec->n_dims]];
        spec->n_dims++;
    }
    if (field == PROFILE_TOKEN_UTILITY && spec->type == H5_U8)
        spec->long_name = "score, stored as round(254 u), 255 = missing";
}
