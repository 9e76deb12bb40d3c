#include "analyze/profile_meta.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/profile_attribute.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"

const char *const profile_class_names[8] = {"special", "byte", "space", "digit",
                                            "word_start", "word_part", "punctuation", "other"};

/* Everything that a meta owns hangs on one list. */
struct owned {
    struct owned *next;
    max_align_t data[];
};

void *profile_meta_alloc(struct profile_meta *meta, size_t count, size_t size, struct err *err) {
    size_t bytes;
    if (!size_mul(count, size, &bytes) || !size_add(bytes, sizeof(struct owned), &bytes))
        bytes = SIZE_MAX;
    struct owned *block = mem_alloc(1, bytes, "run settings", err);
    if (!block)
        return NULL;
    block->next = meta->owned;
    meta->owned = block;
    return block->data;
}

const char *profile_meta_string(struct profile_meta *meta, const char *text, struct err *err) {
    size_t n = strlen(text) + 1;
    char *copy = profile_meta_alloc(meta, n, 1, err);
    return copy ? memcpy(copy, text, n) : NULL;
}

void profile_meta_free(struct profile_meta *meta) {
    for (struct owned *block = meta->owned, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    *meta = (struct profile_meta){0};
}

size_t profile_distance_edges(uint32_t max_length, uint32_t *edges, size_t cap) {
    size_t n = 0;
    uint64_t edge = 0, step = 1;
    while (n < cap) {
        edges[n++] = (uint32_t)edge;
        if (edge >= max_length || edge + step > UINT32_MAX)
            break;
        edge += step;
        if (edge >= 8 && edge % (8 * step) == 0)
            step *= 2;
    }
    return n;
}

void profile_record_text(uint32_t record, char out[128]) {
    static const char *const names[] = {"classes", "tokens", "utility", "utility:u8", "open", "attention", "oracle"};
    size_t n = (size_t)snprintf(out, 128, "heads,positions");
    for (int i = 0; i < 7; i++)
        if (record & 1u << i)
            n += (size_t)snprintf(out + n, 128 - n, ",%s", names[i]);
}

int profile_record_parse(const char *text, uint32_t *record) {
    static const char *const names[] = {"classes", "tokens", "utility", "utility:u8", "open", "attention", "oracle"};
    *record = 0;
    while (*text) {
        size_t n = strcspn(text, ",");
        bool known = (n == 5 && !strncmp(text, "heads", n)) || (n == 9 && !strncmp(text, "positions", n));
        for (unsigned i = 0; i < 7; i++)
            if (strlen(names[i]) == n && strncmp(text, names[i], n) == 0) {
                *record |= 1u << i;
                known = true;
            }
        if (!known)
            return ERR_INPUT;
        text += n + (text[n] == ',');
    }
    return OK;
}

/* The strings of a struct, by attribute. */
static const char **string_of(struct profile_meta *meta, const struct profile_attribute *a) {
    return (const char **)(void *)((char *)meta + a->offset);
}

static int copy_strings(struct profile_meta *to, struct err *err) {
    for (size_t i = 0; i < profile_n_attributes; i++)
        if (profile_attributes[i].type == ATTRIBUTE_STRING) {
            const char **text = string_of(to, &profile_attributes[i]);
            if (!(*text = profile_meta_string(to, *text ? *text : "", err)))
                return ERR_MEMORY;
        }
    return OK;
}

static int copy_u32(struct profile_meta *to, const uint32_t **items, size_t n, struct err *err) {
    if (!*items)
        return OK;
    uint32_t *copy = profile_meta_alloc(to, n, sizeof *copy, err);
    if (!copy)
        return ERR_MEMORY;
    memcpy(copy, *items, n * sizeof *copy);
    *items = copy;
    return OK;
}

/* Arrays that may be left out are filled in, so that every copy and every file says them. */
static int fill_windows(struct profile_meta *to, struct err *err) {
    size_t n_kv = to->n_kv_heads, n = (size_t)to->n_layers * n_kv;
    uint32_t *sliding = profile_meta_alloc(to, to->n_layers, sizeof *sliding, err);
    uint32_t *window = profile_meta_alloc(to, n, sizeof *window, err);
    if (!sliding || !window)
        return ERR_MEMORY;
    for (size_t i = 0; i < n; i++) {
        uint32_t own = to->sliding_window ? to->sliding_window[i / n_kv] : 0;
        sliding[i / n_kv] = own;
        window[i] = own ? own : to->head_window ? to->head_window[i] : to->window;
    }
    to->sliding_window = sliding;
    to->head_window = window;
    return OK;
}

static int copy_names(struct profile_meta *to, const char *const **names, size_t n, struct err *err) {
    const char **copy = profile_meta_alloc(to, n, sizeof *copy, err);
    if (!copy)
        return ERR_MEMORY;
    for (size_t i = 0; i < n; i++)
        if (!(copy[i] = profile_meta_string(to, (*names)[i], err)))
            return ERR_MEMORY;
    *names = copy;
    return OK;
}

static int copy_sources(struct profile_meta *to, struct err *err) {
    struct profile_source *copy = profile_meta_alloc(to, to->n_sources, sizeof *copy, err);
    if (!copy)
        return ERR_MEMORY;
    for (size_t i = 0; i < to->n_sources; i++) {
        const struct profile_source *from = &to->sources[i];
        copy[i].corpus = from->corpus;
        if (!(copy[i].name = profile_meta_string(to, from->name, err)) ||
            !(copy[i].hash = profile_meta_string(to, from->hash ? from->hash : "", err)))
            return ERR_MEMORY;
    }
    to->sources = copy;
    return OK;
}

int profile_meta_copy(const struct profile_meta *from, struct profile_meta *to, struct err *err) {
    *to = *from;
    to->owned = NULL;
    int rc = copy_strings(to, err);
    if (rc == OK)
        rc = fill_windows(to, err);
    if (rc == OK)
        rc = copy_u32(to, &to->distance_edges, from->n_distance_edges, err);
    if (rc == OK)
        rc = copy_names(to, &to->corpus_names, from->n_corpora, err);
    if (rc == OK)
        rc = copy_names(to, &to->class_names, from->n_classes, err);
    if (rc == OK)
        rc = copy_sources(to, err);
    if (rc != OK)
        profile_meta_free(to);
    return rc;
}

static int check_numbers(const struct profile_meta *m, const char *where, struct err *err) {
    struct {
        const char *name;
        uint64_t value, min, max;
    } const ranges[] = {
        {"n_layers", m->n_layers, 1, PROFILE_MAX_LAYERS}, {"n_kv_heads", m->n_kv_heads, 1, PROFILE_MAX_KV_HEADS},
        {"head_dim", m->head_dim, 1, 1 << 16},            {"element_bytes", m->element_bytes, 1, 8},
        {"window", m->window, 1, UINT32_MAX},             {"max_length", m->max_length, 1, 1u << 31},
        {"n_shards", m->n_shards, 1, UINT32_MAX},         {"shard", m->shard, 0, m->n_shards ? m->n_shards - 1 : 0},
        {"n_corpora", m->n_corpora, 1, 1 << 20},          {"n_sources", m->n_sources, 1, UINT32_MAX},
        {"n_classes", m->n_classes, m->record & PROFILE_RECORD_CLASSES ? 1 : 0, PROFILE_MAX_CLASSES},
        {"n_distance_edges", m->n_distance_edges, m->record & PROFILE_RECORD_ATTENTION ? 2 : 0, 1 << 12},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (ranges[i].value < ranges[i].min || ranges[i].value > ranges[i].max)
            return err_set(err, ERR_INPUT, where, "%s is %" PRIu64 ", expected %" PRIu64 " to %" PRIu64, ranges[i].name,
                           ranges[i].value, ranges[i].min, ranges[i].max);
    for (size_t i = 1; i < m->n_distance_edges; i++)
        if (m->distance_edges[i] <= m->distance_edges[i - 1])
            return err_set(err, ERR_INPUT, where, "distance_edge does not ascend at %zu", i);
    if (!(m->score_min < m->score_max || (m->score_min == 0 && m->score_max == 0)))
        return err_set(err, ERR_INPUT, where, "score_min %g is not below score_max %g", m->score_min, m->score_max);
    return OK;
}

static int check_records(const struct profile_meta *m, const char *where, struct err *err) {
    uint32_t per_token = PROFILE_RECORD_UTILITY | PROFILE_RECORD_UTILITY_U8 | PROFILE_RECORD_OPEN | PROFILE_RECORD_ORACLE;
    if ((m->record & per_token) && !(m->record & PROFILE_RECORD_TOKENS))
        return err_set(err, ERR_INPUT, where, "per-token records need the record \"tokens\" as well");
    if ((m->record & PROFILE_RECORD_UTILITY) && (m->record & PROFILE_RECORD_UTILITY_U8))
        return err_set(err, ERR_INPUT, where, "utility and utility:u8 exclude each other");
    if ((m->record & (PROFILE_RECORD_UTILITY | PROFILE_RECORD_UTILITY_U8)) && m->score == PROFILE_SCORE_NONE)
        return err_set(err, ERR_INPUT, where, "the policy %s has no scores to record", m->policy);
    if ((m->record & PROFILE_RECORD_UTILITY_U8) && m->score != PROFILE_SCORE_SIGMOID)
        return err_set(err, ERR_INPUT, where, "utility:u8 stores scores between 0 and 1 only: record utility instead");
    if ((m->record & PROFILE_RECORD_OPEN) && !m->has_gates)
        return err_set(err, ERR_INPUT, where, "the policy %s has no gates to record", m->policy);
    return OK;
}

/* The policy's parameters must be an object of plain values, because each becomes an attribute. */
static int check_parameters(const struct profile_meta *m, const char *where, struct err *err) {
    json_t *object;
    const char *key;
    json_t *value;
    int rc = json_parse_object(m->policy_parameters, strlen(m->policy_parameters), where, &object, err);
    if (rc != OK)
        return rc;
    json_object_foreach(object, key, value) {
        if (json_is_object(value) || json_is_array(value))
            rc = err_set(err, ERR_INPUT, where, "policy parameter %s is not a plain value", key);
    }
    json_decref(object);
    return rc;
}

int profile_meta_check(const struct profile_meta *meta, const char *where, struct err *err) {
    if (!meta->policy || !*meta->policy || !meta->policy_parameters || !meta->prefill || !meta->dtype || !meta->backend)
        return err_set(err, ERR_INPUT, where, "policy, policy_parameters, prefill, dtype and backend must be said");
    if (strcmp(meta->prefill, "pruned") != 0 && strcmp(meta->prefill, "dense") != 0)
        return err_set(err, ERR_INPUT, where, "prefill is \"%s\", expected pruned or dense", meta->prefill);
    int rc = check_numbers(meta, where, err);
    if (rc == OK)
        rc = check_records(meta, where, err);
    if (rc == OK)
        rc = check_parameters(meta, where, err);
    for (size_t i = 0; rc == OK && i < meta->n_sources; i++)
        if (meta->sources[i].corpus >= meta->n_corpora)
            rc = err_set(err, ERR_INPUT, where, "source %zu (%s) belongs to corpus %u, but there are %zu", i,
                         meta->sources[i].name, meta->sources[i].corpus, meta->n_corpora);
    return rc;
}

/* Two settings as text, for the message and for the comparison: what prints the same is the same. */
struct difference {
    const char *a_name, *b_name;
    struct err *err;
};

static int differ(const struct difference *d, const char *what, const char *a, const char *b) {
    if (strcmp(a, b) == 0)
        return OK;
    return err_set(d->err, ERR_INPUT, d->b_name, "%s is \"%s\", but \"%s\" in %s: these are parts of different runs", what,
                   b, a, d->a_name);
}

static int differ_u32(const struct difference *d, const char *what, const uint32_t *a, const uint32_t *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i])
            return err_set(d->err, ERR_INPUT, d->b_name, "%s[%zu] is %u, but %u in %s: these are parts of different runs",
                           what, i, b[i], a[i], d->a_name);
    return OK;
}

static int differ_size(const struct difference *d, const char *what, size_t a, size_t b) {
    char x[32], y[32];
    snprintf(x, sizeof x, "%zu", a);
    snprintf(y, sizeof y, "%zu", b);
    return differ(d, what, x, y);
}

static int differ_sources(const struct difference *d, const struct profile_meta *a, const struct profile_meta *b) {
    int rc = OK;
    for (size_t i = 0; rc == OK && i < a->n_sources; i++) {
        const struct profile_source *x = &a->sources[i], *y = &b->sources[i];
        rc = differ_size(d, "source_corpus", x->corpus, y->corpus);
        if (rc == OK && *x->hash && *y->hash)
            rc = differ(d, "source_hash", x->hash, y->hash);
        else if (rc == OK)
            rc = differ(d, "source_name", x->name, y->name);
    }
    return rc;
}

static int differ_lists(const struct difference *d, const struct profile_meta *a, const struct profile_meta *b) {
    size_t n_heads = (size_t)a->n_layers * a->n_kv_heads;
    int rc = differ_size(d, "number of corpora", a->n_corpora, b->n_corpora);
    if (rc == OK)
        rc = differ_size(d, "number of sources", a->n_sources, b->n_sources);
    if (rc == OK)
        rc = differ_size(d, "number of token classes", a->n_classes, b->n_classes);
    if (rc == OK)
        rc = differ_size(d, "number of distance edges", a->n_distance_edges, b->n_distance_edges);
    if (rc == OK)
        rc = differ_u32(d, "layer_sliding_window", a->sliding_window, b->sliding_window, a->n_layers);
    if (rc == OK)
        rc = differ_u32(d, "head_window", a->head_window, b->head_window, n_heads);
    if (rc == OK)
        rc = differ_u32(d, "distance_edge", a->distance_edges, b->distance_edges, a->n_distance_edges);
    for (size_t i = 0; rc == OK && i < a->n_classes; i++)
        rc = differ(d, "token_class_name", a->class_names[i], b->class_names[i]);
    return rc == OK ? differ_sources(d, a, b) : rc;
}

int profile_meta_compare(const struct profile_meta *a, const char *a_name, const struct profile_meta *b,
                         const char *b_name, bool other_shard, struct err *err) {
    struct difference d = {a_name, b_name, err};
    if (differ_size(&d, "second number of the schema version", a->schema_minor, b->schema_minor) != OK)
        return ERR_INPUT;
    for (size_t i = 0; i < profile_n_attributes; i++) {
        const struct profile_attribute *attribute = &profile_attributes[i];
        struct str x = {0}, y = {0};
        if (!attribute->compared || (other_shard && strcmp(attribute->name, "shard") == 0))
            continue;
        profile_attribute_text(attribute, a, &x);
        profile_attribute_text(attribute, b, &y);
        int rc = x.failed || y.failed ? err_memory(err, "a comparison", x.len + y.len)
                                      : differ(&d, attribute->name, str_text(&x), str_text(&y));
        str_free(&x);
        str_free(&y);
        if (rc != OK)
            return rc;
    }
    return differ_lists(&d, a, b);
}
