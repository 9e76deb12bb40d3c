#include "reports/report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "reports/candidate_figures.h"
#include "reports/map_script.h"
#include "reports/page.h"
#include "reports/run_figures.h"
#include "reports/run_maps.h"
#include "reports/run_tokens.h"
#include "reports/run_tables.h"
#include "reports/training_curves.h"

struct report {
    const struct report_options *options;
    char *dir;       /* where files go now: the temporary directory */
    struct run *runs; /* (n_runs) */
    size_t n_runs;
    struct str page;
};

/* -- the pieces of one run -- */

/* Where the numbers of a map lie, for its script. */
struct map_table {
    const char *file, *column;
};

static int write_map(struct report *r, const struct run *run, const char *dir, const char *name, const struct run_map *map,
                     const struct map_table *table, struct err *err) {
    struct str path = {0};
    int rc = OK;
    if (!heatmap_fits(&map->map)) {
        page_put_note(&r->page, "Too many layers or heads for a heatmap: see heads.csv.");
        return OK;
    }
    str_printf(&path, "%s/%s.png", dir, name);
    rc = path.failed ? err_memory(err, "a path", path.len) : run_map_write(map, run, path.data, err);
    if (rc == OK) {
        str_clear(&path);
        str_printf(&path, "%s/%s.svg", dir, name);
        rc = heatmap_write_svg(&map->map, str_text(&path), err);
    }
    if (rc == OK)
        rc = map_script_write(&map->map, dir, name, table->file, table->column, err);
    if (rc == OK)
        rc = page_put_heatmap(&r->page, &map->map, err);
    str_free(&path);
    return rc;
}

static int write_quantity(struct report *r, const struct run *run, const char *dir, const struct run_quantity *q,
                          struct err *err) {
    struct run_map map;
    int rc = run_map_create(run, q, &map, err);
    if (rc != OK)
        return rc;
    rc = write_map(r, run, dir, q->name, &map, &(struct map_table){"heads.csv", q->column}, err);
    run_map_free(&map);
    return rc;
}

static int draw_figure(struct report *r, const struct figure *f, const char *dir, struct err *err) {
    struct figure_result result;
    struct str path = {0};
    char *svg = NULL;
    size_t n_svg = 0;
    int rc = figure_write(f, dir, r->options->gnuplot, &result, err);
    if (rc != OK)
        goto out;
    str_printf(&path, "%s/%s_plain.svg", dir, f->name);
    if (result.drawn && (rc = file_read_all(str_text(&path), (size_t)64 << 20, &svg, &n_svg, err)) != OK)
        goto out;
    page_put_figure(&r->page, f, result.drawn ? &(struct str){.data = svg, .len = n_svg} : NULL, result.notice);
    if (!result.drawn && r->options->note)
        r->options->note(r->options->self, result.notice);
out:
    free(svg);
    str_free(&path);
    return rc;
}

/* Draws a figure and frees it. */
static int write_figure(struct report *r, struct run_figure *f, const char *dir, struct err *err) {
    int rc = draw_figure(r, &f->figure, dir, err);
    run_figure_free(f);
    return rc;
}

static int write_run_figures(struct report *r, const struct run *run, const char *dir, struct err *err) {
    int rc = OK;
    for (int kind = 0; rc == OK && kind < RUN_N_FIGURES; kind++) {
        struct run_figure f;
        if (run_has_figure(run, (enum run_figure_kind)kind) &&
            (rc = run_figure_create(run, (enum run_figure_kind)kind, &f, err)) == OK)
            rc = write_figure(r, &f, dir, err);
    }
    return rc;
}

/* Writes the CSV; shows the table on the page when it has a caption. */
static int write_table(struct report *r, const struct run *run, const char *dir, const char *file, const char *caption,
                       void (*fill)(const struct run *run, struct table *out), struct err *err) {
    struct table table;
    char *path = file_join(dir, file, err);
    int rc = ERR_MEMORY;
    fill(run, &table);
    if (path && (table_n_rows(&table) == 0 || (rc = table_write_csv(&table, path, err)) == OK)) {
        rc = OK;
        if (caption)
            page_put_table(&r->page, &table, caption, file);
    }
    table_free(&table);
    free(path);
    return rc;
}

static int write_tables(struct report *r, struct profile *profile, const struct run *run, const char *dir, struct err *err) {
    int rc;
    page_put_heading(&r->page, "Tables");
    if ((rc = write_table(r, run, dir, "layers.csv", "Per layer, all KV heads together.", run_table_layers, err)) != OK ||
        (rc = write_table(r, run, dir, "heads.csv", "Per layer and KV head.", run_table_heads, err)) != OK ||
        (rc = write_table(r, run, dir, "positions.csv", NULL, run_table_positions, err)) != OK ||
        (rc = write_table(r, run, dir, "classes.csv", NULL, run_table_classes, err)) != OK ||
        (rc = write_table(r, run, dir, "utility_histogram.csv", NULL, run_table_utility, err)) != OK)
        return rc;
    char *path = file_join(dir, "sequences.csv", err);
    rc = path ? run_write_sequences(profile, path, err) : ERR_MEMORY;
    free(path);
    return rc;
}

static int write_tokens(struct report *r, struct profile *profile, const struct run *run, const struct token_text *text,
                        const char *dir, struct err *err) {
    struct run_tokens_options options = {text, r->options->sequences, r->options->n_sequences};
    return run_tokens_write(profile, run, &options, dir, &r->page, err);
}

static int write_run(struct report *r, struct profile *profile, const struct run *run, const struct token_text *text,
                     const char *dir, struct err *err) {
    const struct run_quantity *q[RUN_MAX_MAPS];
    size_t n = run_quantities(run, q);
    int rc = OK;
    page_put_run(&r->page, run);
    if (n == 0)
        page_put_note(&r->page,
                      "Nothing was counted per head: no sequence is long enough to leave the window, or the run is empty.");
    else
        rc = write_quantity(r, run, dir, q[0], err);
    if (rc == OK)
        rc = write_run_figures(r, run, dir, err);
    if (n > 1)
        page_begin_fold(&r->page, "Further heatmaps");
    for (size_t i = 1; rc == OK && i < n; i++)
        rc = write_quantity(r, run, dir, q[i], err);
    if (n > 1)
        page_end_fold(&r->page);
    if (rc == OK)
        rc = write_tokens(r, profile, run, text, dir, err);
    return rc == OK ? write_tables(r, profile, run, dir, err) : rc;
}

static int write_log(struct report *r, const struct training_log *log, const char *dir, struct err *err) {
    struct str summary = {0};
    int rc = OK;
    training_put_summary(log, &summary);
    page_put_training(&r->page, str_text(&summary));
    r->page.failed |= summary.failed;
    str_free(&summary);
    for (int curve = 0; rc == OK && curve < TRAINING_N_CURVES; curve++) {
        struct run_figure f;
        if (training_has_curve(log, (enum training_curve)curve) &&
            (rc = training_curve_create(log, (enum training_curve)curve, &f, err)) == OK)
            rc = write_figure(r, &f, dir, err);
    }
    return rc;
}

/* The i-th run minus the first: map and table. */
static int write_difference(struct report *r, size_t i, const struct run_quantity *q, struct err *err) {
    struct run_map map;
    struct table table;
    struct str path = {0};
    char name[48], file[56];
    snprintf(name, sizeof name, "difference_%zu_1", i + 1);
    snprintf(file, sizeof file, "%s.csv", name);
    str_printf(&path, "%s/%s", r->dir, file);
    run_table_difference(&r->runs[0], &r->runs[i], q, &table);
    int rc = path.failed ? err_memory(err, "a path", path.len) : table_write_csv(&table, path.data, err);
    if (rc == OK && (rc = run_map_create_difference(&r->runs[0], &r->runs[i], q, &map, err)) == OK) {
        rc = write_map(r, &r->runs[i], r->dir, name, &map, &(struct map_table){file, "difference"}, err);
        run_map_free(&map);
    }
    table_free(&table);
    str_free(&path);
    return rc;
}

/* Each run against the first one of the same shape and kind. */
static int write_differences(struct report *r, struct err *err) {
    int rc = OK;
    for (size_t i = 1; rc == OK && i < r->n_runs; i++) {
        const struct run_quantity *q = run_common_quantity(&r->runs[0], &r->runs[i]);
        char note[160];
        if (q) {
            rc = write_difference(r, i, q, err);
            continue;
        }
        snprintf(note, sizeof note,
                 "Run %zu differs from run 1 in layers, KV heads or in what was recorded: no difference is drawn.", i + 1);
        page_put_note(&r->page, note);
    }
    return rc;
}

/* Layouts and policies side by side. */
static int write_candidates(struct report *r, const struct candidates *candidates, struct err *err) {
    struct table table;
    char *path = file_join(r->dir, "candidates.csv", err);
    int rc = path ? OK : ERR_MEMORY;
    page_put_section(&r->page, "Layouts and policies side by side");
    for (int kind = 0; rc == OK && kind < CANDIDATE_N_FIGURES; kind++) {
        struct candidate_figure f;
        if (candidates_have_figure(candidates, (enum candidate_figure_kind)kind) &&
            (rc = candidate_figure_create(candidates, (enum candidate_figure_kind)kind, &f, err)) == OK) {
            rc = draw_figure(r, &f.figure, r->dir, err);
            candidate_figure_free(&f);
        }
    }
    candidate_table(candidates, &table);
    if (rc == OK)
        rc = table_write_csv(&table, path, err);
    page_put_table(&r->page, &table, "What was predicted and measured, with 95 % intervals over documents.",
                   "candidates.csv");
    table_free(&table);
    free(path);
    return rc;
}

/* -- the whole ------------------------------------------------------------------------------------------------------------
 */

static void begin_page(struct report *r, const struct report_input *input) {
    struct str title = {0};
    if (r->n_runs == 1) {
        str_puts(&title, "KV cache report: ");
        run_put_short_name(&title, r->runs[0].meta->model_path);
    } else if (r->n_runs > 1)
        str_printf(&title, "KV cache report of %zu runs", r->n_runs);
    else
        str_puts(&title, input->n_logs ? "Training report" : "Layouts and policies");
    page_begin(&r->page, str_text(&title),
               r->n_runs > 0 || !input->n_logs
                   ? "Which layers and heads of a language model keep which part of their key-value cache, "
                     "measured by running text through it."
                   : "How the losses of a language model and the share of pairs that its key-value cache keeps "
                               "went while it was trained.");
    r->page.failed |= title.failed;
    str_free(&title);
}

/* The directory itself, or, when there are several to make, the i-th one in it. */
static int make_part(const struct report *r, const char *name, size_t i, bool several, struct str *dir, struct err *err) {
    str_clear(dir);
    str_puts(dir, r->dir);
    if (several)
        str_printf(dir, "/%s%zu", name, i + 1);
    return dir->failed ? err_memory(err, "a path", dir->len) : file_make_dirs(dir->data, err);
}

static int write_parts(struct report *r, const struct report_input *input, struct err *err) {
    struct str dir = {0};
    int rc = OK;
    for (size_t i = 0; rc == OK && i < r->n_runs; i++)
        if ((rc = make_part(r, "run", i, r->n_runs > 1, &dir, err)) == OK)
            rc = write_run(r, input->profiles[i], &r->runs[i], input->texts ? &input->texts[i] : NULL, dir.data, err);
    for (size_t i = 0; rc == OK && i < input->n_logs; i++)
        if ((rc = make_part(r, "training", i, r->n_runs + input->n_logs > 1, &dir, err)) == OK)
            rc = write_log(r, input->logs[i], dir.data, err);
    str_free(&dir);
    return rc;
}

static int write_page(struct report *r, struct err *err) {
    char *path = file_join(r->dir, "index.html", err);
    if (!path)
        return ERR_MEMORY;
    page_end(&r->page, r->options->version ? r->options->version : "");
    int rc = r->page.failed ? err_memory(err, "the page", r->page.len)
                            : file_write_all(path, str_text(&r->page), r->page.len, err);
    free(path);
    return rc;
}

static int write_all(struct report *r, const struct report_input *input, struct err *err) {
    int rc;
    for (size_t i = 0; i < r->n_runs; i++) {
        if ((rc = run_load(input->profiles[i], &r->runs[i], err)) != OK)
            return rc;
        r->runs[i].number = r->n_runs > 1 ? i + 1 : 0;
    }
    begin_page(r, input);
    if (input->candidates && (rc = write_candidates(r, input->candidates, err)) != OK)
        return rc;
    if ((rc = write_differences(r, err)) != OK || (rc = write_parts(r, input, err)) != OK)
        return rc;
    return write_page(r, err);
}

/* -- the directory -- */

/* Whether an earlier report lies there: then its page begins with our mark. */
static bool is_report(const char *path) {
    char *page = file_join(path, "index.html", NULL), head[sizeof PAGE_MARK] = {0};
    FILE *stream = page ? fopen(page, "rb") : NULL;
    bool ours = stream && fread(head, 1, sizeof head - 1, stream) == sizeof head - 1 && strcmp(head, PAGE_MARK) == 0;
    if (stream)
        fclose(stream);
    free(page);
    return ours;
}

static int check_target(const struct report_options *o, struct err *err) {
    int rc = file_check_free(o->dir, o->force, err);
    if (rc != OK || !file_exists(o->dir) || file_dir_is_empty(o->dir) || is_report(o->dir))
        return rc;
    return err_set(err, ERR_EXISTS, o->dir,
                   "exists and is neither empty nor a report: --force does not replace it (give another directory)");
}

/* PATH without trailing slashes, in new memory; its parent exists afterwards. */
static char *prepare_path(const char *path, struct err *err) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    char *copy = mem_strndup(path, n, err), *slash = copy ? strrchr(copy, '/') : NULL;
    if (slash && slash != copy) {
        *slash = 0;
        int rc = file_make_dirs(copy, err);
        *slash = '/';
        if (rc != OK) {
            free(copy);
            return NULL;
        }
    }
    return copy;
}

static int make_temporary(const char *target, char **out, struct err *err) {
    struct str name = {0};
    str_printf(&name, "%s.tmp-XXXXXX", target);
    if (name.failed)
        return err_memory(err, "a path", strlen(target));
    mode_t mask = umask(0);
    umask(mask);
    if (!mkdtemp(name.data) || chmod(name.data, 0777 & ~mask) != 0) {
        int rc = err_errno(err, errno, target, "cannot make a directory beside it");
        str_free(&name);
        return rc;
    }
    *out = name.data;
    return OK;
}

/* The files in it are on disk already, each by its writer. */
static int sync_directory(const char *path, struct err *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = OK;
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL))
        rc = err_errno(err, errno, path, "cannot write to disk");
    if (fd >= 0)
        close(fd);
    return rc;
}

/* Takes the place of an old report in one step where the file system can exchange two names, else in two. */
static int publish(const char *temporary, const char *target, struct err *err) {
    int rc = sync_directory(temporary, err);
    if (rc != OK)
        return rc;
    if (file_exists(target)) {
        if (renameat2(AT_FDCWD, temporary, AT_FDCWD, target, RENAME_EXCHANGE) == 0)
            return file_remove_tree(temporary, err); /* now the old one */
        if ((rc = file_remove_tree(target, err)) != OK)
            return rc;
    }
    return file_publish(temporary, target, err);
}

int report_write(const struct report_input *input, const struct report_options *options, struct err *err) {
    struct report r = {.options = options, .n_runs = input->n_profiles};
    char *target = NULL;
    int rc = check_target(options, err);
    if (rc != OK)
        return rc;
    if (!(target = prepare_path(options->dir, err))) {
        rc = err_set(err, ERR_IO, options->dir, "cannot make its parent directory");
        goto out;
    }
    if ((rc = make_temporary(target, &r.dir, err)) != OK)
        goto out;
    if (!(r.runs = mem_alloc(r.n_runs, sizeof *r.runs, "runs", err))) {
        rc = ERR_MEMORY;
        goto out;
    }
    if ((rc = write_all(&r, input, err)) == OK)
        rc = publish(r.dir, target, err);
out:
    if (rc != OK && r.dir)
        file_remove_tree(r.dir, NULL);
    for (size_t i = 0; r.runs && i < r.n_runs; i++)
        run_free(&r.runs[i]);
    free(r.runs);
    free(r.dir);
    free(target);
    str_free(&r.page);
    return rc;
}
