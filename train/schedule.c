#include "train/schedule.h"

#include <math.h>
#include <string.h>

struct schedule schedule_default(void) {
    return (struct schedule){
        .sequences = 8,
        .accumulation = 1,
        .context_len = 1024,
        .policy = "spkv",
        .learning_rate = 2e-4,
        .final_lr_frac = 0.1,
        .beta1 = 0.9,
        .beta2 = 0.95,
        .epsilon = 1e-8,
        .weight_decay = 0.1,
        .clip_norm = 1,
        .predictor_activation = ACT_SILU,
        .predictor_lr_factor = 5,
        .predictor_weight_decay = 0.1,
        .start_bias = 5,
        .window = 128,
        .threshold = 0.5,
        .gates = GATES_SOFT,
        .sample_clip = 0.05,
        .soft_frac = 0.75,
        .eval_every = 100,
        .save_every = 500,
    };
}

/* --- derived values ---------------------------------------------------------------------------------------------------- */

bool schedule_gated(const struct schedule *s) {
    size_t n = strcspn(s->policy, ":");
    return n == 4 && memcmp(s->policy, "spkv", n) == 0;
}

uint64_t schedule_step_tok(const struct schedule *s) {
    return (uint64_t)s->sequences * (uint64_t)s->context_len;
}

/* With a frozen model nothing would be trained in phase 2, so there is none. */
int64_t schedule_soft_steps(const struct schedule *s) {
    int64_t cosine = s->steps - s->warmup_steps;
    if (s->trained == TRAIN_PREDICTOR)
        return s->steps;
    return s->warmup_steps + (int64_t)floor(s->soft_frac * (double)cosine + 1e-9); /* 0.29 * 100 is 29 */
}

int64_t schedule_anneal_steps(const struct schedule *s) {
    int64_t third = (s->steps - schedule_soft_steps(s)) / 3;
    if (s->gates == GATES_SAMPLED || third < 1)
        return s->anneal_steps > 0 ? s->anneal_steps : 1;
    return s->anneal_steps > 0 ? s->anneal_steps : third < 500 ? third : 500;
}

static double rate_at(const struct schedule *s, int64_t step) {
    const double pi = 3.14159265358979323846;
    if (step <= s->warmup_steps)
        return s->learning_rate * (double)step / (double)s->warmup_steps;
    double done = (double)(step - s->warmup_steps) / (double)(s->steps - s->warmup_steps);
    return s->learning_rate * (s->final_lr_frac + (1 - s->final_lr_frac) * 0.5 * (1 + cos(pi * done)));
}

struct schedule_point schedule_at(const struct schedule *s, int64_t step) {
    int64_t n_soft = schedule_soft_steps(s), n_anneal = schedule_anneal_steps(s), ramp = s->density_ramp_steps;
    struct schedule_point point = {.lr_model = rate_at(s, step)};
    ASSERT(step >= 1 && step <= s->steps);
    point.lr_predictor = point.lr_model * s->predictor_lr_factor;
    if (!schedule_gated(s) || step >= n_soft + n_anneal) {
        point.mode = GATES_HARD;
        point.blend = 1;
    } else if (step > n_soft) {
        point.mode = GATES_ANNEALED;
        point.blend = (double)(step - n_soft) / (double)n_anneal;
    } else {
        point.mode = s->gates;
    }
    point.freeze_predictor = !schedule_gated(s) || step > n_soft;
    if (!point.freeze_predictor)
        point.density_weight = s->density_weight * (step < ramp ? (double)step / (double)ramp : 1);
    return point;
}

/* --- feedback on the density --------------------------------------------------------------------------------------------- */

struct density_control density_control_start(void) {
    return (struct density_control){.factor = 1};
}

static double within(double x, double limit) {
    return x < -limit ? -limit : x > limit ? limit : x;
}

struct density_control density_control_next(const struct schedule *s, struct density_control control, double density) {
    const double proportional = 16, integral = 80, largest = log(100);
    double n = (double)schedule_soft_steps(s);
    if (s->target_density <= 0)
        return control;
    control.n_steps++;
    if (isnan(density))
        return control;
    double reached = (double)control.n_steps / (0.5 * n);
    double e = density - (1 - (1 - s->target_density) * (reached < 1 ? reached : 1));
    control.sum = within(control.sum + within(e, 0.1), largest * n / integral);
    control.factor = exp(within(proportional * e + integral / n * control.sum, largest));
    return control;
}
