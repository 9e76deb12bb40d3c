#include "train/recipe.h"

#include <string.h>

#include "base/str.h"

/* A list while it is being made; NULL once memory ran out. */
static void add(json_t **list, struct str *line) {
    if (*list && (line->failed || json_array_append_new(*list, json_string(str_text(line))) != 0)) {
        json_decref(*list);
        *list = NULL;
    }
    str_clear(line);
}

/* Keys whose value in the paper is a number or a word. */
static void compare_keys(const struct schedule *s, json_t **list, struct str *line) {
    struct schedule paper = schedule_default();
    static const char *const keys[] = {"trained",      "target",     "predictor_kind", "predictor_lr_factor",
                                       "predictor_weight_decay", "start_bias", "window", "threshold",
                                       "gates",        "soft_frac"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        struct str ours = {0}, theirs = {0};
        schedule_format_value(s, keys[i], &ours);
        schedule_format_value(&paper, keys[i], &theirs);
        if (ours.failed || theirs.failed)
            line->failed = true;
        str_printf(line, "%s %s (paper: %s)", keys[i], str_text(&ours), str_text(&theirs));
        if (line->failed || strcmp(str_text(&ours), str_text(&theirs)) != 0)
            add(list, line);
        str_clear(line);
        str_free(&ours);
        str_free(&theirs);
    }
}

json_t *recipe_deviations(const struct schedule *s, uint64_t n_tok) {
    const uint64_t billion = 1000000000;
    json_t *list = json_array();
    struct str line = {0};
    if (n_tok < billion) {
        str_printf(&line, "%llu tokens (paper: billions)", (unsigned long long)n_tok);
        add(&list, &line);
    }
    if (!schedule_gated(s)) {
        str_printf(&line, "policy %s: no gates (paper: gates of a predictor)", s->policy);
        add(&list, &line);
        str_free(&line);
        return list;
    }
    compare_keys(s, &list, &line);
    if (s->trained != TRAIN_PREDICTOR && s->gates == GATES_SOFT && schedule_anneal_steps(s) != 500) {
        str_printf(&line, "anneal_steps %lld (paper: about 500)", (long long)schedule_anneal_steps(s));
        add(&list, &line);
    }
    if (s->density_weight > 0) {
        str_printf(&line, "density_weight %g, risen over %lld steps%s (paper: next-token loss only)", s->density_weight,
                   (long long)s->density_ramp_steps, s->target_density > 0 ? " and adapted to a target" : "");
        add(&list, &line);
    }
    str_free(&line);
    return list;
}
