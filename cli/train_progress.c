#include "cli/train_progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

/* Every weight of a product is read once forward and twice backward (once, where the model is frozen); attention is left
 * out. */
double train_flop_per_tok(const struct schedule *s, const struct model_config *c) {
    double d = c->d_model, heads = 2.0 * (c->n_heads + c->n_kv_heads) * c->head_dim;
    double weights = c->n_layers * (d * heads + 3 * d * c->d_ffn) + d * c->vocab_size;
    return (s->trained == TRAIN_ALL ? 6 : 4) * weights;
}

static double tok_per_s(const struct train_progress *p, uint64_t now) {
    return (double)(p->n_tok - p->n_tok_start) * 1e6 / (double)(now - p->start_us + 1);
}

static void draw(const struct train_progress *p, const struct train_log_row *row, uint64_t now) {
    double speed = tok_per_s(p, now), seconds = (double)(now - p->start_us) * 1e-6;
    char left[32];
    clock_format_duration(seconds / (double)p->n_done * (double)(p->n_steps - row->step), left);
    fprintf(stderr, "%strain: step %lld of %lld, loss %.4f", p->terminal ? "\r" : "", (long long)row->step,
            (long long)p->n_steps, row->loss);
    if (!isnan(row->long_range_density))
        fprintf(stderr, ", density %.1f %%", 100 * row->long_range_density);
    fprintf(stderr, ", %.0f tok/s", speed);
    if (p->gemm_tok_per_s > 0)
        fprintf(stderr, " (%.0f %% of GEMM)", 100 * speed / p->gemm_tok_per_s);
    fprintf(stderr, ", %s left%s", left, p->terminal ? "\033[K" : "\n");
}

static void on_step(void *self, const struct train_log_row *row) {
    struct train_progress *p = self;
    uint64_t now = clock_us(), interval = p->terminal ? 200000 : 5000000;
    p->n_tok = row->n_tok;
    p->n_done++;
    if (p->quiet || now - p->last_us < interval)
        return;
    p->last_us = now;
    draw(p, row, now);
}

static void on_eval(void *self, const struct train_log_row *row) {
    struct train_progress *p = self;
    if (p->quiet)
        return;
    fprintf(stderr, "%seval: step %lld, held-out loss %.4f nat/token", p->terminal ? "\r\033[K" : "", (long long)row->step,
            row->eval_nll_hard);
    if (!isnan(row->eval_long_range_density))
        fprintf(stderr, " at density %.1f %%, %.4f with full attention", 100 * row->eval_long_range_density,
                row->eval_nll_full);
    fputc('\n', stderr);
}

void train_progress_begin(struct train_progress *p, const struct schedule *s, double gemm_tok_per_s, bool quiet) {
    const char *term = getenv("TERM");
    *p = (struct train_progress){.quiet = quiet, .terminal = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0,
                                 .n_steps = s->steps, .gemm_tok_per_s = gemm_tok_per_s,
                                 .observer = {.self = p, .on_step = on_step, .on_eval = on_eval}};
    p->start_us = p->last_us = clock_us();
}

void train_progress_end(struct train_progress *p) {
    if (!p->quiet && p->terminal)
        fputs("\r\033[K", stderr);
}
