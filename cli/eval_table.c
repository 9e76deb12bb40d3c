#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/eval.h"

static double ratio(uint64_t a, uint64_t b) {
    return b ? (double)a / (double)b : (double)NAN;
}

/* Where every scored token saw all that is before it, policies cannot differ. */
bool eval_is_informative(const struct eval_row *row) {
    return row->n_far * 100 >= row->n_scored * EVAL_INFORMATIVE;
}

/* --- text --- */

static void print_share(double x, int width) {
    if (isnan(x))
        printf(" %*s  ", width, "-");
    else
        printf(" %*.1f %%", width, 100 * x);
}

static void print_number(double x, const char *missing) {
    if (isnan(x))
        printf(" %9s", missing);
    else
        printf(x < 9999 ? " %9.4f" : " %9.3g", x);
}

static void print_metric(const struct eval_metric *m) {
    printf(" %-16s", m->name);
    print_number(m->value, "-");
    if (isnan(m->low))
        printf("    ");
    if (isnan(m->low))
        print_number(m->stderror, "");
    else
        printf(" %6.2f-%-6.2f", m->low, m->high);
    print_number(m->full, "-");
}

static void print_rest(const struct evaluation *e, const struct eval_row *row) {
    if (isnan(row->nll_change.value))
        printf(" %8s %18s", "-", "");
    else {
        char range[48];
        snprintf(range, sizeof range, "[%+.2f, %+.2f] %%", 100 * row->nll_change.low, 100 * row->nll_change.high);
        printf(" %+6.2f %% %18s", 100 * row->nll_change.value, range);
    }
    print_share(ratio(row->n_far, row->n_scored), 6);
    print_share(ratio(row->n_kept, row->n_left_window), 6);
    print_share(ratio(row->visible_pairs, row->causal_pairs), 6);
    if (e->full && !eval_is_informative(row))
        printf("  not informative");
    if (row->note[0])
        printf("  %s", row->note);
}

void eval_print_text(const struct evaluation *e) {
    int width = 4;
    for (size_t i = 0; i < e->n_rows; i++)
        width = (int)strlen(e->rows[i].name) > width ? (int)strlen(e->rows[i].name) : width;
    printf("policy %s, window %d + %d sinks, %s prefill%s\n", e->loaded.policy->name, e->loaded.policy->base_window,
           e->loaded.policy->sinks, e->options->run.dense_prefill ? "dense" : "pruned",
           e->full ? "; full: full attention of the same weights" : "");
    printf("%-*s %6s %5s %-16s %9s %13s %9s %8s %18s %8s %8s %8s\n", width, "task", "items", "shots", "figure", "value",
           "error or 95 %", "full", "NLL", "95 %", "far", "density", "read");
    for (size_t i = 0; i < e->n_rows; i++) {
        const struct eval_row *row = &e->rows[i];
        for (size_t m = 0; m < row->n_metrics; m++) {
            if (m == 0)
                printf("%-*s %6zu %5d", width, row->name, row->n_items, row->n_shots);
            else
                printf("%-*s %6s %5s", width, "", "", "");
            print_metric(&row->metrics[m]);
            if (m == 0)
                print_rest(e, row);
            putchar('\n');
        }
    }
    printf("error: standard error; NLL: change of the loss of what is right against full; far: scored tokens with a pair "
           "outside the\nwindow (below %d %% the row is not informative); density: kept of the pairs that left the window; "
           "read: visible of all\ncausal pairs.\n", EVAL_INFORMATIVE);
}

/* --- JSON --- */

static json_t *estimate_json(const struct estimate *x) {
    return json_pack("{s:o, s:o, s:o}", "value", json_finite(x->value), "low", json_finite(x->low), "high",
                     json_finite(x->high));
}

static json_t *row_json(const struct evaluation *e, const struct eval_row *row) {
    json_t *metrics = json_object();
    for (size_t i = 0; i < row->n_metrics; i++) {
        const struct eval_metric *m = &row->metrics[i];
        json_object_set_new(metrics, m->name, json_pack("{s:o, s:o, s:o, s:o, s:o}", "value", json_finite(m->value),
                                                        "stderr", json_finite(m->stderror), "low", json_finite(m->low),
                                                        "high", json_finite(m->high), "full", json_finite(m->full)));
    }
    return json_pack("{s:s, s:s, s:s, s:s, s:s?, s:I, s:i, s:o, s:o, s:I, s:o, s:o, s:o, s:o, s:I, s:f}", "task", row->name,
                     "note", row->note, "path", row->task->path, "kind", row->task->kind->name, "rows",
                     row->task->row_kind ? row_kind_name(row->task->row_kind) : NULL, "n_items", (json_int_t)row->n_items,
                     "n_shots", row->n_shots, "metrics", metrics, "nll_change", estimate_json(&row->nll_change), "n_scored",
                     (json_int_t)row->n_scored, "far_fraction", json_finite(ratio(row->n_far, row->n_scored)), "informative",
                     e->full ? json_boolean(eval_is_informative(row)) : json_null(), "long_range_density",
                     json_finite(ratio(row->n_kept, row->n_left_window)), "read_fraction",
                     json_finite(ratio(row->visible_pairs, row->causal_pairs)), "n_truncated",
                     (json_int_t)row->n_truncated, "seconds", row->seconds);
}

void eval_print_json(const struct evaluation *e, const char *command) {
    const struct eval_options *o = e->options;
    char now[32], program[128];
    json_t *tasks = json_array();
    clock_utc(now);
    snprintf(program, sizeof program, "spkv %s (%s)", cli_version, cli_commit);
    for (size_t i = 0; i < e->n_rows; i++)
        json_array_append_new(tasks, row_json(e, &e->rows[i]));
    json_t *root = json_pack(
        "{s:s, s:i, s:s, s:s, s:s, s:s, s:s, s:o, s:s, s:i, s:s, s:I, s:i, s:b, s:s?, s:I, s:o}", "schema", "spkv-eval",
        "version", 1, "program", program, "time", now, "command", command, "model", o->run.model, "model_hash",
        checkpoint_model_hash(e->loaded.checkpoint), "policy", json_loads(str_text(&e->loaded.policy->parameters), 0, NULL),
        "prefill", o->run.dense_prefill ? "dense" : "pruned", "chunk", o->run.chunk, "dtype", e->loaded.dtype_name,
        "max_length", (json_int_t)e->encoder.max_length, "stride", o->stride, "special_tokens_added", e->encoder.add_special,
        "chat", e->chat.name[0] ? e->chat.name : NULL,
        "n_resamples", (json_int_t)o->n_resamples, "tasks", tasks);
    json_dumpf(root, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(root);
}
