#include "reports/training_curves.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "reports/text.h"

static bool is_measured(const double *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isnan(x[i]))
            return true;
    return false;
}

bool training_has_curve(const struct training_log *log, enum training_curve curve) {
    switch (curve) {
    case TRAINING_CURVE_LOSS: return is_measured(training_log_column(log, TRAINING_LOSS), log->n_steps);
    case TRAINING_CURVE_DENSITY: return is_measured(training_log_column(log, TRAINING_GATE_DENSITY), log->n_steps);
    case TRAINING_CURVE_LAYERS: return is_measured(log->density, log->n_head_steps * log->n_layers * log->n_kv_heads);
    case TRAINING_N_CURVES: break;
    }
    return false;
}

/* A dashed line where the gates begin to turn hard. */
static void mark_anneal(const struct training_log *log, struct run_figure *f) {
    const double *blend = training_log_column(log, TRAINING_BLEND), *step = training_log_column(log, TRAINING_STEP);
    for (size_t i = 0; i < log->n_steps; i++)
        if (blend[i] > 0) {
            if (i > 0) {
                f->figure.mark = step[i];
                snprintf(f->mark_title, sizeof f->mark_title, "gates turn hard");
            }
            return;
        }
}

/* Room for n_x steps and n_series, with what the figures have in common. */
static int begin(const struct training_log *log, size_t n_x, size_t n_series, struct run_figure *f, struct err *err) {
    int rc = run_figure_allocate(f, n_x, n_series, err);
    if (rc != OK)
        return rc;
    f->figure.from = f->figure.to = NULL;
    f->figure.x_name = "step";
    f->figure.x_title = "optimizer step";
    mark_anneal(log, f);
    return OK;
}

static double *series_of(struct run_figure *f, size_t i) {
    return f->numbers + (4 + i) * f->figure.n_x;
}

/* Columns of the log as curves over its steps; the figure has `n` series. */
static int create_columns(const struct training_log *log, const enum training_column *columns, size_t n,
                          struct run_figure *f, struct err *err) {
    size_t n_bytes = log->n_steps * sizeof(double);
    int rc = begin(log, log->n_steps, n, f, err);
    if (rc != OK)
        return rc;
    memcpy(f->numbers, training_log_column(log, TRAINING_STEP), n_bytes);
    for (size_t i = 0; i < n; i++)
        memcpy(series_of(f, i), training_log_column(log, columns[i]), n_bytes);
    f->figure.kind = FIGURE_CURVES;
    f->figure.all = NULL;
    return OK;
}

static int create_loss(const struct training_log *log, struct run_figure *f, struct err *err) {
    static const enum training_column columns[] = {TRAINING_LOSS, TRAINING_EVAL_HARD, TRAINING_EVAL_FULL};
    static const char *const names[] = {"training step", "held out, hard gates", "held out, full attention"};
    int rc = create_columns(log, columns, 3, f, err);
    if (rc != OK)
        return rc;
    str_puts(&f->explanation, "Loss of every step under the gates of its phase, and of text held out from training with hard "
                              "gates and with full attention. Where the gates turn hard, a model that leaned on pairs "
                              "which are now dropped shows a jump.");
    f->figure.name = "training_loss";
    f->figure.title = "Loss over training steps";
    f->figure.alt = "Curves of training loss and held-out losses over steps; the numbers are in training_loss.csv.";
    f->figure.y_title = "loss (nat per token)";
    f->figure.series_names = names;
    f->figure.y_low = NAN;
    return OK;
}

static int create_density(const struct training_log *log, struct run_figure *f, struct err *err) {
    static const enum training_column columns[] = {TRAINING_GATE_DENSITY, TRAINING_LONG_DENSITY, TRAINING_EVAL_LONG_DENSITY};
    static const char *const names[] = {"open gates", "kept beyond the window", "the same, held out"};
    int rc = create_columns(log, columns, 3, f, err);
    if (rc != OK)
        return rc;
    str_puts(&f->explanation, "Share of key-value pairs whose utility reaches the threshold: of all pairs, of those that have "
                              "left the window (long-range density), and the latter on text held out from training.");
    f->figure.name = "training_density";
    f->figure.title = "Density over training steps";
    f->figure.alt = "Curves of densities over steps; the numbers are in training_density.csv.";
    f->figure.y_title = "density";
    f->figure.series_names = names;
    f->figure.y_high = 1;
    return OK;
}

/* Heads of a step have all seen the same tokens, so that the mean of their ratios is the ratio of their sums. */
static double mean(const double *x, size_t n) {
    double sum = 0;
    size_t n_values = 0;
    for (size_t i = 0; i < n; i++)
        if (!isnan(x[i])) {
            sum += x[i];
            n_values++;
        }
    return n_values ? sum / (double)n_values : NAN;
}

static int create_layers(const struct training_log *log, struct run_figure *f, struct err *err) {
    size_t n = log->n_head_steps, n_heads = log->n_layers * log->n_kv_heads;
    int rc = begin(log, n, log->n_layers, f, err);
    if (rc != OK)
        return rc;
    memcpy(f->numbers, log->head_steps, n * sizeof(double));
    double *all = f->numbers + 3 * n;
    for (size_t i = 0; i < n; i++) {
        all[i] = mean(log->density + i * n_heads, n_heads);
        for (size_t l = 0; l < log->n_layers; l++)
            series_of(f, l)[i] = mean(log->density + i * n_heads + l * log->n_kv_heads, log->n_kv_heads);
    }
    str_puts(&f->explanation, "Long-range density of every layer, its KV heads together: of the pairs that have left the "
                              "window, the share whose gate is open.");
    f->figure.name = "training_layers";
    f->figure.kind = FIGURE_LINES;
    f->figure.title = "Long-range density by layer over training steps";
    f->figure.alt = "A line of density over steps for every layer and one for all; the numbers are in training_layers.csv.";
    f->figure.y_title = "long-range density";
    f->figure.all_name = "all layers";
    f->figure.y_high = 1;
    return OK;
}

int training_curve_create(const struct training_log *log, enum training_curve curve, struct run_figure *out,
                          struct err *err) {
    static int (*const create[])(const struct training_log *, struct run_figure *,
                                 struct err *) = {[TRAINING_CURVE_LOSS] = create_loss,
                                                  [TRAINING_CURVE_DENSITY] = create_density,
                                                  [TRAINING_CURVE_LAYERS] = create_layers};
    *out = (struct run_figure){0};
    int rc = create[curve](log, out, err);
    training_put_summary(log, &out->context);
    return run_figure_finish(out, rc, err);
}

static void put_last(const struct training_log *log, enum training_column column, const char *format, struct str *out) {
    double x = training_log_last(log, column);
    if (!isnan(x))
        str_printf(out, format, x);
}

void training_put_summary(const struct training_log *log, struct str *out) {
    str_puts(out, log->path);
    put_last(log, TRAINING_STEP, ": step %.0f", out);
    put_last(log, TRAINING_TOKENS, ", %.0f tokens", out);
    put_last(log, TRAINING_LOSS, ", loss %.4f", out);
    put_last(log, TRAINING_EVAL_HARD, ", held out %.4f with hard gates", out);
    put_last(log, TRAINING_EVAL_FULL, ", held out %.4f with full attention", out);
    put_last(log, TRAINING_EVAL_LONG_DENSITY, ", long-range density %.3f", out);
    str_putc(out, '.');
}
