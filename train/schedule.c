#include "train/schedule.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
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

struct schedule schedule_default_oracle(void) {
    struct schedule s = schedule_default();
    s.target = TARGET_ORACLE;
    s.trained = TRAIN_PREDICTOR;
    s.start_bias = -4;
    s.threshold = 0.05;
    return s;
}

/* --- derived values --------------------------------------------------------------------------------------------------- */

double schedule_lora_alpha(const struct schedule *s) {
    return s->lora_alpha > 0 ? s->lora_alpha : 2.0 * s->lora_r;
}

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

/* --- contradictions --------------------------------------------------------------------------------------------------- */

/* True when the policy's text sets a key that the schedule has too. */
static bool policy_sets(const struct schedule *s, const char *key) {
    size_t n = strlen(key);
    for (const char *p = strpbrk(s->policy, ":,"); p; p = strpbrk(p + 1, ":,"))
        if (strncmp(p + 1, key, n) == 0 && p[1 + n] == '=')
            return true;
    return false;
}

struct checker {
    const struct schedule *s;
    const char *where;
    struct err *err;
};

static int refuse(const struct checker *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int refuse(const struct checker *c, const char *format, ...) {
    char message[sizeof c->err->message];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return err_set(c->err, ERR_INPUT, c->where, "%s", message);
}

static int check_run(const struct checker *c) {
    const struct schedule *s = c->s;
    if (s->steps == 0)
        return refuse(c, "\"steps\" is missing: say how many steps the run has");
    if (s->warmup_steps >= s->steps)
        return refuse(c, "\"warmup_steps\" is %lld, but \"steps\" is %lld: the rate would never fall. Give fewer of them",
                      (long long)s->warmup_steps, (long long)s->steps);
    if (s->sequences % s->accumulation != 0)
        return refuse(c, "\"accumulation\" is %d, but \"sequences\" is %d: give a divisor, so that micro-batches are equal",
                      s->accumulation, s->sequences);
    if (s->policy[0] == 0)
        return refuse(c, "\"policy\" is \"\": name one, such as spkv or full");
    if (!schedule_gated(s) && s->trained == TRAIN_PREDICTOR)
        return refuse(c, "\"trained\" is \"predictor\", but under \"policy\" \"%s\" no predictor acts, so that nothing "
                         "would be trained: use policy spkv", s->policy);
    if (s->target == TARGET_ORACLE && (s->trained != TRAIN_PREDICTOR || !schedule_gated(s)))
        return refuse(c, "\"target\" is \"oracle\", which fits the predictor of a frozen model: set \"trained\" to "
                         "\"predictor\" and \"policy\" to spkv");
    if (s->target == TARGET_ORACLE && (s->density_weight > 0 || s->answer_only || s->recompute))
        return refuse(c, "\"%s\" is set, but \"target\" is \"oracle\": there is no loss of tokens that it would act on. "
                         "Leave it out", s->density_weight > 0 ? "density_weight" : s->answer_only ? "answer_only"
                                                                                                  : "recompute");
    if (s->trained == TRAIN_LORA && s->lora_r == 0)
        return refuse(c, "\"trained\" is \"lora\", but \"lora_r\" is 0: give the rank of the updates (8)");
    if (s->trained != TRAIN_LORA && (s->lora_r > 0 || s->lora_alpha > 0))
        return refuse(c, "\"%s\" is %g, but \"trained\" is not \"lora\": set it, or leave the low-rank updates out",
                      s->lora_r > 0 ? "lora_r" : "lora_alpha", s->lora_r > 0 ? s->lora_r : s->lora_alpha);
    return OK;
}

static int check_predictor(const struct checker *c) {
    const struct schedule *s = c->s;
    const char *key = policy_sets(s, "window") ? "window" : policy_sets(s, "threshold") ? "threshold" : NULL;
    if (key)
        return refuse(c, "\"policy\" is \"%s\": give \"%s\" as a key of the schedule, which is saved with the predictor",
                      s->policy, key);
    if (s->window >= s->context_len)
        return refuse(c, "\"window\" is %d, but \"context_len\" is %d: no pair would ever leave the window. Give longer "
                         "sequences or a smaller window", s->window, s->context_len);
    if (s->predictor_hidden > 0 && s->predictor_kind != PREDICTOR_TRUNK)
        return refuse(c, "\"predictor_hidden\" is %d, but \"predictor_kind\" has no hidden layer: leave one of them out",
                      s->predictor_hidden);
    if (s->gates == GATES_SAMPLED && s->sample_clip >= 0.5)
        return refuse(c, "\"sample_clip\" is %g, so that every gate would be open with probability 1/2: give less than 0.5",
                      s->sample_clip);
    return OK;
}

/* Blend 1 must be reached before the last step: the model has to see hard gates. */
static int check_phases(const struct checker *c) {
    const struct schedule *s = c->s;
    long long phase_2 = s->steps - schedule_soft_steps(s), anneal = schedule_anneal_steps(s);
    if (s->anneal_steps > 0 && s->trained == TRAIN_PREDICTOR)
        return refuse(c, "\"anneal_steps\" is %lld, but \"trained\" is \"predictor\": model and predictor would both be "
                         "frozen in phase 2, so there is none. Leave it out", anneal);
    if (s->anneal_steps > 0 && s->gates == GATES_SAMPLED)
        return refuse(c, "\"anneal_steps\" is %lld, but \"gates\" is \"sampled\": sampled gates are hard already and are "
                         "not annealed. Leave it out", anneal);
    if (s->trained == TRAIN_PREDICTOR || anneal < phase_2)
        return OK;
    if (s->anneal_steps > 0 && phase_2 > 1)
        return refuse(c, "\"anneal_steps\" is %lld, but phase 2 has %lld of the %lld steps (\"soft_frac\" %g): the gates "
                         "would not be hard before the last step. Give at most %lld", anneal, phase_2, (long long)s->steps,
                      s->soft_frac, phase_2 - 1);
    return refuse(c, "\"soft_frac\" is %g, which leaves %lld of %lld \"steps\" to phase 2: the gates would not be hard "
                     "before the last step. Lower it, or give more steps", s->soft_frac, phase_2, (long long)s->steps);
}

static int check_density(const struct checker *c) {
    const struct schedule *s = c->s;
    long long soft = schedule_soft_steps(s), ramp = s->density_ramp_steps;
    if (s->density_weight <= 0 && s->target_density > 0)
        return refuse(c, "\"target_density\" is %g, but \"density_weight\" is 0: give the weight to start from (0.03)",
                      s->target_density);
    if (s->density_weight <= 0 && ramp > 0)
        return refuse(c, "\"density_ramp_steps\" is %lld, but \"density_weight\" is 0: give a weight, or leave the ramp out",
                      ramp);
    if (s->density_weight > 0 && soft == 0)
        return refuse(c, "\"density_weight\" is %g, but \"soft_frac\" is %g: the predictor would never be trained. Raise "
                         "soft_frac, or leave the weight out", s->density_weight, s->soft_frac);
    if (ramp > soft)
        return refuse(c, "\"density_ramp_steps\" is %lld, but phase 1 has %lld steps, after which the predictor is frozen: "
                         "give a shorter ramp", ramp, soft);
    return OK;
}

int schedule_check(const struct schedule *s, const char *where, struct err *err) {
    const struct checker c = {s, where, err};
    int rc = check_run(&c);
    if (rc != OK || !schedule_gated(s))
        return rc;
    if ((rc = check_predictor(&c)) == OK && (rc = check_phases(&c)) == OK)
        rc = check_density(&c);
    return rc;
}

/* --- feedback on the density ------------------------------------------------------------------------------------------ */

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
