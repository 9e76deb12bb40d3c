#include "analyze/strategy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"

static const struct strategy strategies[] = {
    {.kind = STRATEGY_INTERLEAVED, .name = "interleaved-a", .period = 4},
    {.kind = STRATEGY_INTERLEAVED, .name = "interleaved-b", .period = 4, .phase = 3, .force_last = true},
    {.kind = STRATEGY_RANDOM_HEADS, .name = "random"},
    {.kind = STRATEGY_DENSEST_LAYERS, .name = "densest-layers"},
    {.kind = STRATEGY_MINIMUM_HEADS, .name = "densest-minimum", .least = 1},
    {.kind = STRATEGY_EVEN_HEADS, .name = "densest-even"},
    {.kind = STRATEGY_DENSEST_HEADS, .name = "densest-heads"},
};

const struct strategy *strategy_table(size_t *n) {
    *n = sizeof strategies / sizeof *strategies;
    return strategies;
}

const struct strategy *strategy_find(const char *name) {
    for (size_t i = 0; i < sizeof strategies / sizeof *strategies; i++)
        if (strcmp(strategies[i].name, name) == 0)
            return &strategies[i];
    return NULL;
}

bool strategy_is_ranking(const struct strategy *strategy) {
    return strategy->kind != STRATEGY_INTERLEAVED && strategy->kind != STRATEGY_RANDOM_HEADS;
}

/* Something that is ranked: larger score first, then the lower index. */
struct ranked {
    double score;
    uint32_t index;
};

static int by_rank(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* What a strategy works on. */
struct choice {
    const struct strategy *strategy;
    const struct strategy_input *input;
    struct layout *layout;
    size_t n_global; /* to choose */
    json_t *changes;
};

static void note(struct choice *c, size_t layer, const char *what) {
    struct str text = {0};
    str_printf(&text, "layer %zu: %s", layer, what);
    json_array_append_new(c->changes, json_string(str_text(&text)));
    str_free(&text);
}

static void note_minimum(struct choice *c, size_t least) {
    struct str text = {0};
    str_printf(&text, "minimum per layer lowered from %u to %zu", c->strategy->least, least);
    json_array_append_new(c->changes, json_string(str_text(&text)));
    str_free(&text);
}

static double score_of(const struct strategy_input *input, size_t head) {
    return isnan(input->value[head]) ? 0 : input->value[head];
}

static bool is_sliding(const struct strategy_input *input, size_t layer) {
    return input->sliding && input->sliding[layer];
}

/* The first heads of a ranking become global. */
static void take_heads(struct choice *c, const struct ranked *ranked, size_t n) {
    for (size_t i = 0; i < n; i++)
        c->layout->heads[ranked[i].index] = HEAD_GLOBAL;
}

/* Ranks all heads that may be chosen; returns how many. */
static size_t rank_heads(const struct choice *c, struct ranked *ranked) {
    size_t n = 0, kv = c->input->n_kv_heads;
    for (size_t head = 0; head < c->input->n_layers * kv; head++) {
        if (is_sliding(c->input, head / kv))
            continue;
        bool random = c->strategy->kind == STRATEGY_RANDOM_HEADS;
        double score = random ? rng_uniform(c->strategy->seed, 0, (uint32_t)(head / kv), (uint32_t)(head % kv), 0)
                              : score_of(c->input, head);
        ranked[n++] = (struct ranked){score, (uint32_t)head};
    }
    qsort(ranked, n, sizeof *ranked, by_rank);
    return n;
}

/* Layers in the order in which densest-layers takes them. */
static size_t rank_layers(const struct choice *c, struct ranked *ranked) {
    size_t n = 0, kv = c->input->n_kv_heads;
    for (size_t layer = 0; layer < c->input->n_layers; layer++) {
        double sum = 0;
        for (size_t k = 0; k < kv; k++)
            sum += score_of(c->input, layer * kv + k);
        if (!is_sliding(c->input, layer))
            ranked[n++] = (struct ranked){sum, (uint32_t)layer};
    }
    qsort(ranked, n, sizeof *ranked, by_rank);
    return n;
}

/* Some heads of a layer: its lowest, or (dense) its densest. */
static void take_part(struct choice *c, size_t layer, size_t n, bool dense) {
    size_t kv = c->input->n_kv_heads;
    uint8_t *heads = c->layout->heads + layer * kv;
    const double *value = c->input->value + layer * kv;
    for (size_t i = 0; i < n; i++) {
        size_t best = SIZE_MAX;
        for (size_t k = 0; k < kv; k++)
            if (heads[k] != HEAD_GLOBAL && (best == SIZE_MAX || (dense && value[k] > value[best]) ||
                                            (dense && isnan(value[best]) && value[k] > 0)))
                best = k;
        heads[best] = HEAD_GLOBAL;
    }
    if (n < kv) {
        char text[64];
        snprintf(text, sizeof text, "only its %s %zu of %zu heads", dense ? "densest" : "lowest", n, kv);
        note(c, layer, text);
    }
}

/* Takes whole layers of a list until the budget is met, the last one perhaps in part; returns how many entries were used. */
static size_t take_layers(struct choice *c, const struct ranked *layers, size_t n, bool dense) {
    size_t kv = c->input->n_kv_heads, left = c->n_global - layout_n_global(c->layout), used = 0;
    for (; used < n && left > 0; used++) {
        size_t take = left < kv ? left : kv;
        take_part(c, layers[used].index, take, dense);
        left -= take;
    }
    return used;
}

/* Layers of the pattern in order, then the last one when it is forced. Sliding layers cannot be made global. */
static size_t pattern_layers(struct choice *c, struct ranked *out) {
    const struct strategy *s = c->strategy;
    size_t n = 0, last = SIZE_MAX;
    for (size_t layer = 0; layer < c->input->n_layers; layer++)
        if (!is_sliding(c->input, layer))
            last = layer;
    for (size_t layer = s->phase; layer < c->input->n_layers; layer += s->period) {
        if (is_sliding(c->input, layer))
            note(c, layer, "in the pattern, but the model's own window slides there");
        else
            out[n++] = (struct ranked){0, (uint32_t)layer};
    }
    if (s->force_last && last != SIZE_MAX && (n == 0 || out[n - 1].index != last))
        out[n++] = (struct ranked){0, (uint32_t)last};
    return n;
}

static bool in_list(const struct ranked *list, size_t n, size_t layer) {
    for (size_t i = 0; i < n; i++)
        if (list[i].index == layer)
            return true;
    return false;
}

static void choose_pattern(struct choice *c, struct ranked *list) {
    size_t n = pattern_layers(c, list), used = take_layers(c, list, n, false);
    for (size_t i = n; i-- > used;)
        note(c, list[i].index, "dropped");
    struct ranked extra;
    for (size_t layer = c->input->n_layers; layer-- > 0 && layout_n_global(c->layout) < c->n_global;)
        if (!is_sliding(c->input, layer) && !in_list(list, n, layer)) {
            extra = (struct ranked){0, (uint32_t)layer};
            note(c, layer, "added");
            take_layers(c, &extra, 1, false);
        }
}

static size_t n_in_layer(const struct layout *layout, size_t layer) {
    size_t n = 0;
    for (size_t k = 0; k < layout->n_kv_heads; k++)
        n += layout_head(layout, layer, k) == HEAD_GLOBAL;
    return n;
}

/* Heads in the order of the ranking while their layer has fewer than `most` and the budget lasts. */
static void take_heads_up_to(struct choice *c, const struct ranked *ranked, size_t n, size_t most) {
    size_t left = c->n_global - layout_n_global(c->layout);
    for (size_t i = 0; i < n && left > 0; i++) {
        uint8_t *head = &c->layout->heads[ranked[i].index];
        if (*head == HEAD_GLOBAL || n_in_layer(c->layout, ranked[i].index / c->layout->n_kv_heads) >= most)
            continue;
        *head = HEAD_GLOBAL;
        left--;
    }
}

static void choose_spread(struct choice *c, struct ranked *ranked) {
    size_t n = rank_heads(c, ranked), kv = c->input->n_kv_heads, layers = n / kv;
    size_t share = layers ? c->n_global / layers : 0, least = share;
    if (c->strategy->kind == STRATEGY_MINIMUM_HEADS) {
        least = c->strategy->least < share ? c->strategy->least : share;
        if (least < c->strategy->least && least < kv)
            note_minimum(c, least);
    }
    take_heads_up_to(c, ranked, n, least);
    take_heads_up_to(c, ranked, n, c->strategy->kind == STRATEGY_EVEN_HEADS ? share + 1 : kv);
}

static int choose(struct choice *c, struct err *err) {
    size_t n_heads = (size_t)c->input->n_layers * c->input->n_kv_heads;
    struct ranked *ranked = mem_alloc(n_heads + 1, sizeof *ranked, "a ranking", err);
    if (!ranked)
        return ERR_MEMORY;
    switch (c->strategy->kind) {
    case STRATEGY_INTERLEAVED: choose_pattern(c, ranked); break;
    case STRATEGY_DENSEST_LAYERS: take_layers(c, ranked, rank_layers(c, ranked), true); break;
    case STRATEGY_MINIMUM_HEADS:
    case STRATEGY_EVEN_HEADS: choose_spread(c, ranked); break;
    case STRATEGY_RANDOM_HEADS:
    case STRATEGY_DENSEST_HEADS:
        rank_heads(c, ranked);
        take_heads(c, ranked, c->n_global);
    }
    free(ranked);
    ASSERT(layout_n_global(c->layout) == c->n_global);
    return OK;
}

/* made_by: how the layout came about, so that it can be made again. */
static int describe(struct choice *c, struct err *err) {
    const struct strategy *s = c->strategy;
    json_t *made_by = json_pack("{s:s, s:{s:I}, s:O}", "strategy", s->name, "budget", "global_heads",
                                (json_int_t)c->n_global, "changed_to_fit", c->changes);
    if (s->kind == STRATEGY_INTERLEAVED) {
        json_object_set_new(made_by, "period", json_integer(s->period));
        json_object_set_new(made_by, "phase", json_integer(s->phase));
        json_object_set_new(made_by, "force_last", json_boolean(s->force_last));
    }
    if (s->kind == STRATEGY_MINIMUM_HEADS)
        json_object_set_new(made_by, "least", json_integer(s->least));
    if (s->kind == STRATEGY_RANDOM_HEADS)
        json_object_set_new(made_by, "seed", json_integer((json_int_t)s->seed));
    c->layout->made_by = made_by;
    return made_by ? OK : err_memory(err, "a description of the layout", 0);
}

int strategy_apply(const struct strategy *strategy, const struct strategy_input *input, size_t n_global, struct layout **out,
                   struct err *err) {
    struct choice c = {.strategy = strategy, .input = input, .n_global = n_global};
    *out = NULL;
    if (strategy->kind == STRATEGY_INTERLEAVED && (strategy->period == 0 || strategy->phase >= strategy->period))
        return err_set(err, ERR_INPUT, strategy->name, "period %u and phase %u: the phase must be below the period",
                       strategy->period, strategy->phase);
    int rc = layout_create(input->n_layers, input->n_kv_heads, input->sliding, input->window, input->sinks, &c.layout, err);
    if (rc == OK && n_global > layout_n_eligible(c.layout))
        rc = err_set(err, ERR_INPUT, strategy->name, "a budget of %zu global heads, but only %zu can be global", n_global,
                     layout_n_eligible(c.layout));
    if (rc == OK && !(c.changes = json_array()))
        rc = err_memory(err, "a layout", 0);
    if (rc == OK)
        rc = choose(&c, err);
    if (rc == OK)
        rc = describe(&c, err);
    json_decref(c.changes);
    if (rc == OK)
        *out = c.layout;
    else
        layout_free(c.layout);
    return rc;
}
