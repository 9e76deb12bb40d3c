/* The numbers of `spkv show` for programs. */
#include <math.h>

#include "base/json.h"
#include "reports/terminal.h"
#include "reports/text.h"

static json_t *count(uint64_t n) {
    return json_integer((json_int_t)n);
}

/* A foreign string as valid UTF-8. */
static json_t *text(const char *s) {
    struct str clean = {0};
    text_put_clean(&clean, s ? s : "");
    json_t *value = clean.failed ? NULL : json_stringn(str_text(&clean), clean.len);
    str_free(&clean);
    return value;
}

static void set_sums(const struct run *run, json_t *o, const struct head_sums *s) {
    json_object_set_new(o, "n_scored", count(s->n_scored));
    json_object_set_new(o, "n_open", count(s->n_open));
    json_object_set_new(o, "n_left_window", count(s->n_left_window));
    json_object_set_new(o, "n_kept", count(s->n_kept));
    json_object_set_new(o, "visible_pairs", count(s->visible_pairs));
    json_object_set_new(o, "causal_pairs", count(s->causal_pairs));
    json_object_set_new(o, "long_range_density", json_finite(head_long_density(s)));
    json_object_set_new(o, "gate_density", json_finite(head_gate_density(s)));
    json_object_set_new(o, "kv_fraction", json_finite(head_kv_fraction(s)));
    json_object_set_new(o, "read_fraction", json_finite(head_read_fraction(s)));
    json_object_set_new(o, "mean_utility", json_finite(run->statistics.has_scores ? head_mean_utility(s) : NAN));
    json_object_set_new(o, "far_attention", json_finite(head_far_attention(s)));
    json_object_set_new(o, "sink_attention", json_finite(head_sink_attention(s)));
}

static json_t *run_object(const struct run *run) {
    const struct profile_meta *m = run->meta;
    json_t *o = json_object(), *corpora = json_array();
    for (size_t i = 0; i < m->n_corpora; i++)
        json_array_append_new(corpora, text(m->corpus_names[i]));
    json_object_set_new(o, "path", text(run->path));
    json_object_set_new(o, "complete", json_boolean(!run->partial));
    json_object_set_new(o, "model", text(m->model_path));
    json_object_set_new(o, "model_type", text(m->model_type));
    json_object_set_new(o, "model_hash", text(m->model_hash));
    json_object_set_new(o, "n_layers", count(m->n_layers));
    json_object_set_new(o, "n_kv_heads", count(m->n_kv_heads));
    json_object_set_new(o, "head_dim", count(m->head_dim));
    json_object_set_new(o, "corpora", corpora);
    json_object_set_new(o, "policy", text(m->policy));
    json_object_set_new(o, "policy_parameters", text(m->policy_parameters));
    json_object_set_new(o, "window", count(m->window));
    json_object_set_new(o, "sinks", count(m->sinks));
    json_object_set_new(o, "threshold", json_finite(m->threshold));
    json_object_set_new(o, "prefill", text(m->prefill));
    json_object_set_new(o, "dtype", text(m->dtype));
    json_object_set_new(o, "backend", text(m->backend));
    return o;
}

static json_t *total_object(const struct run *run) {
    const struct statistics *s = &run->statistics;
    json_t *o = json_object();
    json_object_set_new(o, "n_sequences", count(s->n_sequences));
    json_object_set_new(o, "n_tokens", count(s->n_tokens));
    json_object_set_new(o, "n_predicted", count(s->n_predicted));
    json_object_set_new(o, "shortest_tok", count(s->shortest));
    json_object_set_new(o, "longest_tok", count(s->longest));
    json_object_set_new(o, "nll_nat_per_token", json_finite(statistics_nll(s)));
    json_object_set_new(o, "argmax_share", json_finite(statistics_argmax(s)));
    json_object_set_new(o, "n_answers", count(s->n_answers));
    json_object_set_new(o, "answers_exact", json_finite(statistics_exact(s)));
    json_object_set_new(o, "cache_used_bytes", count(s->cache_bytes_used));
    json_object_set_new(o, "cache_allocated_bytes", count(s->cache_bytes_allocated));
    json_object_set_new(o, "cache_full_bytes", count(s->cache_bytes_full));
    json_object_set_new(o, "pool_peak_bytes", count(run->meta->pool_peak_bytes));
    set_sums(run, o, &s->total);
    return o;
}

static json_t *layer_object(const struct run *run, size_t layer) {
    struct head_sums sums = run->statistics.layers[layer];
    json_t *o = json_object(), *heads = json_array();
    json_object_set_new(o, "layer", count(layer));
    json_object_set_new(o, "sliding", json_boolean(run->statistics.sliding[layer]));
    set_sums(run, o, &sums);
    for (size_t k = 0; k < run->statistics.n_kv_heads; k++) {
        json_t *head = json_object();
        json_object_set_new(head, "kv_head", count(k));
        set_sums(run, head, run_head(run, layer, k));
        json_array_append_new(heads, head);
    }
    json_object_set_new(o, "heads", heads);
    return o;
}

json_t *terminal_json(const struct run *run) {
    json_t *root = json_object(), *layers = json_array();
    for (size_t l = 0; l < run->statistics.n_layers; l++)
        json_array_append_new(layers, layer_object(run, l));
    json_object_set_new(root, "schema", json_string("spkv-show"));
    json_object_set_new(root, "version", json_integer(1));
    json_object_set_new(root, "run", run_object(run));
    json_object_set_new(root, "total", total_object(run));
    json_object_set_new(root, "layers", layers);
    if (json_object_size(root) != 5) { /* a setter drops what could not be allocated */
        json_decref(root);
        return NULL;
    }
    return root;
}
