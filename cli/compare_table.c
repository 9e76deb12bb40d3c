#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/compare.h"
#include "cli/json_table.h"
#include "reports/text.h"

static const double TELLING_GAP = 0.02; /* under it a text cannot tell methods apart (method.md section 10) */

static bool is_informative(const struct policy_comparison *c) {
    return c->gap >= TELLING_GAP;
}

/* What the policy's knob is set to: it stands last in a specification that was calibrated, else among the parameters. */
static json_t *knob_value(const struct compare_row *row) {
    const json_t *value = row->knob ? json_object_get(row->parameters, row->knob) : NULL;
    if (row->role == ROW_CALIBRATED)
        return json_finite(strtod(strrchr(row->spec, '=') + 1, NULL));
    return json_finite(value ? json_number_value(value) : (double)NAN);
}

/* --- JSON and CSV ----------------------------------------------------------------------------------------------------- */

static void put_real(json_t *object, const char *name, double x) {
    json_object_set_new(object, name, json_finite(x));
}

static void put_count(json_t *object, const char *name, uint64_t n) {
    json_object_set_new(object, name, json_integer((json_int_t)n));
}

static void put_text(json_t *object, const char *name, const char *text) {
    json_object_set_new(object, name, json_string(text));
}

static void put_estimate(json_t *object, const char *name, const struct estimate *e) {
    static const char *const suffixes[] = {"", "_low", "_high"};
    const double values[] = {e->value, e->low, e->high};
    for (size_t i = 0; i < 3; i++) {
        char key[64];
        snprintf(key, sizeof key, "%s%s", name, suffixes[i]);
        put_real(object, key, values[i]);
    }
}

static void put_policy(json_t *o, const struct compare_row *row) {
    put_text(o, "policy", row->policy);
    put_text(o, "spec", row->spec);
    put_text(o, "weights", row->weights->name);
    put_text(o, "role", row_role_names[row->role]);
    put_real(o, "read_fraction_wanted", row->wanted);
    put_real(o, "read_fraction", row->figures.read_fraction);
    json_object_set_new(o, "matched", json_boolean(row->matched));
    put_text(o, "knob", row->knob ? row->knob : "");
    json_object_set_new(o, "knob_value", knob_value(row));
    put_real(o, "calibration_read_fraction_wanted", row->calibration_wanted);
    put_real(o, "calibration_read_fraction", row->calibrated);
    put_count(o, "calibration_steps", row->n_steps);
    put_text(o, "allocation", allocation_names[row->allocation]);
}

static void put_figures(json_t *o, const struct figures *f) {
    put_real(o, "long_range_density", f->long_range_density);
    put_real(o, "kv_fraction", f->kv_fraction);
    put_real(o, "kv_bytes_used", f->kv_bytes_used);
    put_real(o, "kv_bytes_allocated", f->kv_bytes_allocated);
    put_real(o, "kv_bytes_full", f->kv_bytes_full);
    put_real(o, "kv_bytes_peak", f->kv_bytes_peak);
    put_real(o, "nll_nat_per_token", f->nll);
    put_estimate(o, "nll_change", &f->nll_change);
    put_estimate(o, "gap_recovered", &f->gap_recovered);
}

static void put_protocol(json_t *o, const struct policy_comparison *c, const struct compare_row *row) {
    const struct loaded *loaded = row->weights->loaded;
    put_real(o, "gap", c->gap);
    json_object_set_new(o, "informative", json_boolean(is_informative(c)));
    json_object_set(o, "prefill", json_object_get(c->text.description, "prefill"));
    put_count(o, "window_tok", (uint64_t)row->window);
    put_count(o, "sinks_tok", (uint64_t)row->sinks);
    put_count(o, "chunk_tok", row->chunk);
    json_object_set(o, "max_length_tok", json_object_get(c->text.description, "max_length"));
    put_count(o, "batch", row->batch);
    put_text(o, "dtype", loaded->dtype_name);
    put_count(o, "n_documents", row->figures.losses.n);
    put_count(o, "n_sequences", row->figures.n_sequences);
    put_count(o, "n_predicted", row->figures.n_predicted);
    put_count(o, "seed", c->options->run.seed);
    put_text(o, "run", row->path);
    put_text(o, "commit", cli_commit);
    put_text(o, "machine", loaded->ops->device_describe(loaded->dev));
    put_text(o, "command", c->command);
}

static const char *corpus_name(const struct policy_comparison *c, size_t i) {
    return json_string_value(json_array_get(json_object_get(c->text.description, "corpora"), i));
}

static json_t *corpus_row(const struct policy_comparison *c, const struct compare_row *row, size_t i) {
    const struct corpus_figures *f = &row->corpora[i];
    json_t *o = json_object();
    put_text(o, "corpus", corpus_name(c, i));
    put_text(o, "policy", row->policy);
    put_text(o, "spec", row->spec);
    put_text(o, "weights", row->weights->name);
    put_text(o, "role", row_role_names[row->role]);
    put_real(o, "read_fraction_wanted", row->wanted);
    put_real(o, "read_fraction", f->read_fraction);
    put_real(o, "long_range_density", f->long_range_density);
    put_real(o, "kv_fraction", f->kv_fraction);
    put_real(o, "nll_nat_per_token", f->nll);
    put_real(o, "nll_change", f->nll_change);
    put_count(o, "n_predicted", f->n_predicted);
    return o;
}

static json_t *all_rows(const struct policy_comparison *c) {
    json_t *rows = json_array();
    for (size_t i = 0; i < c->n; i++) {
        json_t *o = json_object();
        put_policy(o, &c->rows[i]);
        put_figures(o, &c->rows[i].figures);
        put_protocol(o, c, &c->rows[i]);
        json_object_set(o, "parameters", c->rows[i].parameters);
        json_array_append_new(rows, o);
    }
    return rows;
}

static json_t *all_corpora(const struct policy_comparison *c) {
    json_t *rows = json_array();
    for (size_t i = 0; i < c->n; i++)
        for (size_t k = 0; k < c->n_corpora; k++)
            json_array_append_new(rows, corpus_row(c, &c->rows[i], k));
    return rows;
}

json_t *compare_json(const struct policy_comparison *c) {
    const struct compare_options *o = c->options;
    char now[32], program[128];
    clock_utc(now);
    snprintf(program, sizeof program, "spkv %s (%s)", cli_version, cli_commit);
    json_t *calibration = json_deep_copy(c->calibration_text.description);
    json_object_set_new(calibration, "documents", json_string(c->calibration_kind));
    json_object_set_new(calibration, "measured_too", json_boolean(c->overlap));
    json_t *root = json_pack("{s:s, s:i, s:s, s:s?, s:s?, s:O, s:o, s:f, s:i, s:i, s:f, s:o, s:b, s:o, s:o, s:s, s:s}",
                             "schema", "spkv-compare", "version", 1, "model", o->run.model, "twin", o->twin, "model_hash",
                             checkpoint_model_hash(c->model.checkpoint), "text", c->text.description, "calibration_text",
                             calibration, "tolerance", o->tolerance, "n_resamples", (int)o->n_resamples,
                             "gap_from_position", (int)c->far_from, "level", 0.95, "gap", json_finite(c->gap), "informative",
                             is_informative(c), "rows", all_rows(c), "corpora", all_corpora(c), "program", program, "time",
                             now);
    return root;
}

int compare_write(const struct policy_comparison *c, struct err *err) {
    static const char *const names[] = {"compare.csv", "corpora.csv", "calibration.csv", "compare.json"};
    json_t *root = compare_json(c);
    int rc = root ? OK : err_memory(err, "a table", 0);
    for (size_t i = 0; rc == OK && i < sizeof names / sizeof *names; i++) {
        char *path = file_join(c->options->output, names[i], err);
        if (!path)
            rc = ERR_MEMORY;
        else if (i == 0)
            rc = json_write_csv(json_object_get(root, "rows"), path, err);
        else if (i == 1)
            rc = json_write_csv(json_object_get(root, "corpora"), path, err);
        else
            rc = i == 2 ? compare_write_calibration(c, path, err) : json_write_file(root, path, err);
        free(path);
    }
    json_decref(root);
    return rc;
}

/* --- text ------------------------------------------------------------------------------------------------------------- */

/* The specification; the value that was found stands last and is cut to what one reads. */
static void put_short_spec(struct str *out, const struct compare_row *row) {
    const char *equals = strrchr(row->spec, '=');
    if (row->role != ROW_CALIBRATED || !equals) {
        text_put_clean(out, row->spec);
        return;
    }
    str_append(out, row->spec, (size_t)(equals - row->spec) + 1);
    str_printf(out, "%.5g", strtod(equals + 1, NULL));
}

static void print_percent(double x, int width, int decimals, const char *sign) {
    if (isnan(x))
        printf(" %*s  ", width, "-");
    else
        printf(*sign ? " %+*.*f %%" : " %*.*f %%", width, decimals, 100 * x);
}

static void print_range(const struct estimate *e, int decimals) {
    char text[48] = "";
    if (!isnan(e->low))
        snprintf(text, sizeof text, "[%+.*f, %+.*f]", decimals, 100 * e->low, decimals, 100 * e->high);
    printf(" %-18s", text);
}

static void print_row(const struct policy_comparison *c, size_t i, int width) {
    static const struct estimate none = {NAN, NAN, NAN};
    const struct compare_row *row = &c->rows[i];
    const struct figures *f = &row->figures;
    struct str spec = {0};
    put_short_spec(&spec, row);
    printf("  %-*s %-6s", width, str_text(&spec), row->weights->name);
    str_free(&spec);
    print_percent(row->wanted, 7, 2, "");
    print_percent(f->read_fraction, 7, 2, "");
    printf(" %s", isnan(row->wanted) || row->matched ? "   " : "off");
    print_percent(f->long_range_density, 6, 1, "");
    print_percent(f->kv_fraction, 6, 1, "");
    printf(" %9.1f %9.1f %9.4f", f->kv_bytes_used / 1e3, f->kv_bytes_peak / 1e3, f->nll);
    print_percent(i == ROW_FULL ? (double)NAN : f->nll_change.value, 8, 2, "+");
    print_range(i == ROW_FULL ? &none : &f->nll_change, 2);
    bool gap = c->gap > 0; /* else nothing can be recovered */
    print_percent(gap ? f->gap_recovered.value : (double)NAN, 7, 1, "");
    print_range(gap && i > ROW_WINDOW ? &f->gap_recovered : &none, 1);
    printf(" %s\n", i == ROW_FULL ? "" : allocation_names[row->allocation]);
}

static int spec_width(const struct policy_comparison *c) {
    int width = 8;
    for (size_t i = 0; i < c->n; i++) {
        struct str spec = {0};
        put_short_spec(&spec, &c->rows[i]);
        width = (int)spec.len > width ? (int)spec.len : width;
        str_free(&spec);
    }
    return width;
}

static void print_gap(const struct policy_comparison *c) {
    if (isnan(c->gap))
        printf("  No sequence is longer than twice the window (%u tokens): nothing is beyond it to lose.\n", c->far_from);
    else
        printf("  The whole gap between the window and full attention is %.2f %%, over predictions from position %u on%s.\n",
               100 * c->gap, c->far_from, is_informative(c) ? "" : ": this text cannot tell methods apart");
}

static void print_corpora(const struct policy_comparison *c, int width) {
    for (size_t k = 0; k < c->n_corpora; k++) {
        printf("\n%s: %llu predictions\n  %-*s %-6s %9s %9s %9s %9s %10s\n", corpus_name(c, k),
               (unsigned long long)c->rows[ROW_FULL].corpora[k].n_predicted, width, "policy", "on", "read", "density", "KV",
               "nat/token", "change");
        for (size_t i = 0; i < c->n; i++) {
            const struct corpus_figures *f = &c->rows[i].corpora[k];
            struct str spec = {0};
            put_short_spec(&spec, &c->rows[i]);
            printf("  %-*s %-6s", width, str_text(&spec), c->rows[i].weights->name);
            str_free(&spec);
            print_percent(f->read_fraction, 7, 2, "");
            print_percent(f->long_range_density, 7, 2, "");
            print_percent(f->kv_fraction, 7, 2, "");
            printf(" %9.4f", f->nll);
            print_percent(i == ROW_FULL ? (double)NAN : f->nll_change, 8, 2, "+");
            putchar('\n');
        }
    }
    printf("\ndensity: pairs kept of those that left the window, sinks not counted, after the last token (long-range "
           "density); sums over sequences, layers and heads.\n");
}

void compare_print(const struct policy_comparison *c) {
    const struct figures *f = &c->rows[ROW_FULL].figures;
    int width = spec_width(c);
    printf("%zu documents, %llu sequences, %llu tokens; window %u, %d sinks on the %s weights; prefill %s, chunk %d\n"
           "calibrated on %s\n\n",
           f->losses.n, (unsigned long long)f->n_sequences, (unsigned long long)f->n_tok, c->window, c->dense.run.sinks,
           c->dense.name, c->options->run.dense_prefill ? "dense" : "pruned", c->options->run.chunk, c->calibration_kind);
    printf("  %-*s %-6s %9s %9s     %8s %8s %9s %9s %9s %10s %-18s %9s %-18s %s\n", width, "policy", "on", "wanted", "read",
           "density", "KV", "kB/seq", "peak kB", "nat/token", "change", "  95 %", "gap rec.", "  95 %", "allocation");
    for (size_t i = 0; i < c->n; i++)
        print_row(c, i, width);
    print_gap(c);
    if (c->n_corpora > 1)
        print_corpora(c, width);
}
