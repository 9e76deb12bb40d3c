#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/verify.h"

static const char *const titles[N_COLUMNS] = {
    "zero-shot: the weights as they are. Which heads break first; not what a trained hybrid costs.",
    "healed: every case trained for the same tokens in the same order. full is the dense twin.",
};

static json_t *range(const struct estimate *e) {
    return json_pack("[o, o]", json_finite(e->low), json_finite(e->high));
}

/* --- JSON ------------------------------------------------------------------------------------------------------------- */

static void put_provenance(const struct verification *v, enum verify_column column, json_t *object) {
    char now[32], program[128];
    clock_utc(now);
    snprintf(program, sizeof program, "spkv %s (%s)", cli_version, cli_commit);
    json_object_set_new(object, "level", json_real(0.95));
    json_object_set_new(object, "n_resamples", json_integer(v->options->n_resamples));
    json_object_set_new(object, "model_hash", json_string(checkpoint_model_hash(v->loaded.checkpoint)));
    json_object_set_new(object, "dtype", json_string(v->loaded.dtype_name));
    json_object_update(object, v->text.description);
    json_object_set_new(object, "program", json_string(program));
    json_object_set_new(object, "time", json_string(now));
    if (column == COLUMN_HEALED)
        json_object_set_new(object, "heal_tok", json_integer(v->options->heal_tok));
}

json_t *verify_figures_json(const struct verification *v, const struct figures *f, enum verify_column column) {
    const struct figures *full = &v->cases[CASE_FULL].figures[column];
    json_t *object = json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:f, s:f, s:f, s:o, s:I, s:I, s:I, s:I, s:I, s:I}",
        "nll_nat_per_token", json_finite(f->nll), "nll_full_nat_per_token", json_finite(full->nll), "nll_change",
        json_finite(f->nll_change.value), "nll_change_interval", range(&f->nll_change), "gap_recovered",
        json_finite(f->gap_recovered.value), "gap_recovered_interval", range(&f->gap_recovered), "gap", json_finite(v->gap[column]),
        "read_fraction", json_finite(f->read_fraction), "long_range_density", json_finite(f->long_range_density), "kv_bytes_used",
        f->kv_bytes_used, "kv_bytes_allocated", f->kv_bytes_allocated, "kv_bytes_full", f->kv_bytes_full,
        "decode_tok_per_s", json_finite(f->decode_tok_per_s), "n_documents", (json_int_t)f->losses.n, "n_sequences",
        (json_int_t)f->n_sequences, "n_tok", (json_int_t)f->n_tok, "n_predicted", (json_int_t)f->n_predicted, "window",
        (json_int_t)v->window, "gap_from_position", (json_int_t)v->far_from);
    put_provenance(v, column, object);
    return object;
}

void verify_print_json(const struct verification *v) {
    json_t *cases = json_array();
    for (size_t i = 0; i < v->n; i++) {
        const struct verify_case *c = &v->cases[i];
        json_t *entry = json_pack("{s:s, s:s, s:s?, s:s?, s:b}", "name", c->name, "policy", c->policy, "layout",
                                  c->layout_path, "strategy", c->layout ? layout_strategy(c->layout) : NULL,
                                  "chosen_on_this_text", c->chosen_here);
        for (int column = 0; column < N_COLUMNS; column++) {
            const struct figures *f = &c->figures[column];
            if (!f->there)
                continue;
            json_t *figures = verify_figures_json(v, f, (enum verify_column)column);
            if (v->options->against)
                json_object_set_new(figures, "against", json_pack("{s:s, s:o, s:o}", "name", v->options->against,
                                                                  "nll_change", json_finite(f->against.value),
                                                                  "nll_change_interval", range(&f->against)));
            json_object_set_new(entry, verify_column_names[column], figures);
        }
        json_array_append_new(cases, entry);
    }
    json_t *root = json_pack("{s:s, s:i, s:O, s:o, s:o}", "schema", "spkv-verify", "version", 1, "text", v->text.description, "cases",
                             cases, "rank_correlation", json_finite(v->rank_correlation));
    json_dumpf(root, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(root);
}

/* --- text ------------------------------------------------------------------------------------------------------------- */

static void print_percent(double x, int width, const char *sign) {
    if (isnan(x))
        printf(" %*s  ", width, "-");
    else
        printf(*sign ? " %+*.2f %%" : " %*.2f %%", width, 100 * x);
}

static void print_range(const struct estimate *e) {
    char text[48] = "";
    if (!isnan(e->low))
        snprintf(text, sizeof text, "[%+.2f, %+.2f]", 100 * e->low, 100 * e->high);
    printf(" %-18s", text);
}

static void print_row(const struct verify_case *c, const struct figures *f, int width, bool full, bool against) {
    static const struct estimate none = {NAN, NAN, NAN};
    printf("  %-*s %9.4f", width, c->name, f->nll);
    print_percent(full ? (double)NAN : f->nll_change.value, 8, "+");
    print_range(full ? &none : &f->nll_change);
    if (against) {
        print_percent(f->against.value, 8, "+");
        print_range(&f->against);
    }
    print_percent(f->gap_recovered.value, 8, "");
    print_range(full ? &none : &f->gap_recovered);
    print_percent(f->read_fraction, 7, "");
    print_percent(f->kv_bytes_used / f->kv_bytes_full, 7, "");
    print_percent(f->kv_bytes_allocated / f->kv_bytes_full, 7, "");
    if (!isnan(f->decode_tok_per_s))
        printf(" %8.1f", f->decode_tok_per_s);
    printf("%s\n", c->chosen_here ? "  chosen on this text" : "");
}

static void print_column(const struct verification *v, enum verify_column column) {
    int width = 8;
    for (size_t i = 0; i < v->n; i++)
        width = (int)strlen(v->cases[i].name) > width ? (int)strlen(v->cases[i].name) : width;
    printf("\n%s\n  %-*s %9s %10s %-18s", titles[column], width, "", "nat/token", "change", "  95 %");
    if (v->options->against)
        printf(" %10s %-18.18s", "against", v->options->against);
    printf(" %10s %-18s %9s %9s %9s%s\n", "gap recov.", "  95 %", "read", "KV used", "KV alloc",
           v->options->decode_context ? "   tok/s" : "");
    for (size_t i = 0; i < v->n; i++)
        print_row(&v->cases[i], &v->cases[i].figures[column], width, i == CASE_FULL, v->options->against != NULL);
    if (isnan(v->gap[column]))
        printf("  No sequence is longer than twice the window (%u tokens): nothing is beyond it to lose.\n", v->far_from);
    else
        printf("  The whole gap between window and full attention is %.2f %%, over predictions from position %u on%s.\n",
               100 * v->gap[column], v->far_from, v->gap[column] < 0.02 ? ": this text cannot tell methods apart" : "");
}

void verify_print_text(const struct verification *v) {
    const struct figures *f = &v->cases[CASE_FULL].figures[COLUMN_ZERO_SHOT];
    printf("%zu documents, %llu sequences, %llu tokens; window %u, alone with %d sinks\n", f->losses.n,
           (unsigned long long)f->n_sequences, (unsigned long long)f->n_tok, v->window, VERIFY_SINKS);
    for (int column = 0; column < N_COLUMNS; column++)
        if (v->cases[CASE_FULL].figures[column].there)
            print_column(v, (enum verify_column)column);
    if (v->cases[CASE_FULL].figures[COLUMN_HEALED].there)
        printf("\nRank correlation of the losses of the window and the layouts, zero-shot against healed: %.2f\n",
               v->rank_correlation);
    printf("\nChanges are against full attention of the same column; intervals draw whole documents, %u times.\n",
           v->options->n_resamples);
}

/* --- CSV -------------------------------------------------------------------------------------------------------------- */

static void csv_number(struct str *out, double x) {
    if (isfinite(x))
        str_printf(out, ",%.9g", x);
    else
        str_putc(out, ',');
}

static void csv_quoted(struct str *out, const char *text) {
    str_puts(out, ",\"");
    for (; *text; text++)
        str_puts(out, *text == '"' ? "\"\"" : (const char[]){*text, 0});
    str_putc(out, '"');
}

static void csv_row(const struct verification *v, const struct verify_case *c, enum verify_column column, struct str *out) {
    const struct figures *f = &c->figures[column];
    const double numbers[] = {
        f->nll, f->nll_change.value, f->nll_change.low, f->nll_change.high,
        f->against.value, f->against.low, f->against.high, f->gap_recovered.value, f->gap_recovered.low,
        f->gap_recovered.high, f->read_fraction, f->long_range_density, f->kv_bytes_used, f->kv_bytes_allocated,
        f->kv_bytes_full, f->decode_tok_per_s, v->gap[column], v->window, (double)f->losses.n, (double)f->n_sequences,
        (double)f->n_predicted, (double)(column == COLUMN_HEALED ? v->options->heal_tok : 0), (double)v->options->run.seed};
    str_printf(out, "%s,%s,%s", verify_column_names[column], c->name, c->layout ? layout_strategy(c->layout) : "");
    str_printf(out, ",%s", c->chosen_here ? "true" : "false");
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        csv_number(out, numbers[i]);
    str_printf(out, ",%s", cli_commit);
    csv_quoted(out, v->loaded.ops->device_describe(v->loaded.dev));
    csv_quoted(out, v->command);
    str_putc(out, '\n');
}

int verify_write_csv(const struct verification *v, const char *path, struct err *err) {
    struct str out = {0};
    str_puts(&out, "column,name,strategy,chosen_on_this_text,nll_nat_per_token,nll_change,nll_change_low,nll_change_high,"
                   "against_change,against_change_low,against_change_high,"
                   "gap_recovered,gap_recovered_low,gap_recovered_high,read_fraction,long_range_density,kv_bytes_used,"
                   "kv_bytes_allocated,kv_bytes_full,decode_tok_per_s,gap,window_tok,n_documents,n_sequences,n_predicted,"
                   "heal_tok,seed,commit,machine,command\n");
    for (int column = 0; column < N_COLUMNS; column++)
        for (size_t i = 0; i < v->n; i++)
            if (v->cases[i].figures[column].there)
                csv_row(v, &v->cases[i], (enum verify_column)column, &out);
    int rc = out.failed ? err_memory(err, "a table", out.len) : file_write_all(path, out.data, out.len, err);
    str_free(&out);
    return rc;
}
