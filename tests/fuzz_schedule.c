/* Fuzz target: schedules. What is accepted must hold for every step, and read back from its own text. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "train/recipe.h"
#include "train/schedule.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void look(const struct schedule *s, int64_t step) {
    if (step < 1 || step > s->steps)
        return;
    struct schedule_point p = schedule_at(s, step);
    ASSERT(p.lr_model >= 0 && p.lr_model <= s->learning_rate * (1 + 1e-12) && p.blend >= 0 && p.blend <= 1);
    ASSERT(p.density_weight >= 0 && p.density_weight <= s->density_weight);
    ASSERT((p.mode == GATES_HARD) == (p.blend == 1) && (!p.freeze_predictor || p.density_weight == 0));
}

static void use(const struct schedule *s) {
    int64_t soft = schedule_soft_steps(s), anneal = schedule_anneal_steps(s);
    const int64_t borders[] = {1, 2, s->warmup_steps, soft, soft + anneal, s->density_ramp_steps, s->steps};
    for (size_t i = 0; i < sizeof borders / sizeof *borders; i++)
        for (int64_t step = borders[i] - 1; step <= borders[i] + 1; step++)
            look(s, step);
    struct density_control c = density_control_next(s, density_control_start(), 0.5);
    ASSERT(isfinite(c.factor) && isfinite(c.sum) && schedule_step_tok(s) > 0);
    json_t *list = recipe_deviations(s, 1);
    ASSERT(list);
    json_decref(list);
}

static void again(const struct schedule *s) {
    struct schedule second = schedule_default();
    struct str text = {0};
    struct err err = {0};
    schedule_format(s, &text);
    ASSERT(schedule_parse(str_text(&text), text.len, "again", &second, &err) == OK);
    ASSERT(!schedule_difference(s, &second, true));
    str_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    struct schedule s = schedule_default();
    struct err err = {0};
    int rc = schedule_parse((const char *)data, n, "fuzz", &s, &err);
    ASSERT(rc == OK ? err.code == OK : err.code == rc && err.message[0]);
    if (rc != OK)
        return 0;
    rc = schedule_check(&s, "fuzz", &err);
    ASSERT(rc == OK ? err.code == OK : err.code == rc && err.message[0]);
    if (rc == OK) {
        use(&s);
        again(&s);
    }
    return 0;
}
