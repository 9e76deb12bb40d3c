/* Candidates out of the runs that spkv verify keeps: DIR/zero_shot/NAME.h5 and DIR/healed/NAME.h5. */
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "reports/candidates.h"
#include "reports/run.h"

static const char *const columns[] = {"zero_shot", "healed"};

static char *inside(const char *dir, const char *column, const char *file, struct err *err) {
    char *folder = *column ? file_join(dir, column, err) : mem_strdup(dir, err),
         *path = folder ? file_join(folder, file, err) : NULL;
    free(folder);
    return path;
}

static bool holds(const char *dir, const char *column, const char *file) {
    char *path = inside(dir, column, file, NULL);
    bool found = path && file_exists(path);
    free(path);
    return found;
}

bool candidates_is_directory(const char *path) {
    return file_is_dir(path) && (holds(path, "", "compare.csv") ||
                                 (holds(path, "zero_shot", "full.h5") && holds(path, "zero_shot", "window.h5")));
}

/* What was measured in one run. */
struct measured {
    struct document_losses losses;
    double read_fraction, kv_fraction;
    char *origin;
};

static void measured_free(struct measured *m) {
    document_losses_free(&m->losses);
    free(m->origin);
}

static int read_losses(struct profile *profile, uint32_t far_from, struct measured *out, struct err *err) {
    struct run run = {0};
    struct str origin = {0};
    int rc = document_losses_read(profile, far_from, &out->losses, err);
    if (rc == OK)
        rc = run_load(profile, &run, err);
    if (rc != OK)
        return rc;
    const struct statistics *s = &run.statistics;
    out->read_fraction = head_read_fraction(&s->total);
    out->kv_fraction = s->cache_bytes_full ? (double)s->cache_bytes_used / (double)s->cache_bytes_full : (double)NAN;
    run_put_measurement(&run, &origin);
    out->origin = origin.failed ? NULL : mem_strdup(str_text(&origin), err);
    str_free(&origin);
    run_free(&run);
    return out->origin ? OK : err_memory(err, "a caption", 0);
}

static int read_run(const char *path, uint32_t far_from, struct measured *out, struct err *err) {
    struct profile *profile;
    *out = (struct measured){0};
    int rc = profile_open(path, &profile, err);
    if (rc == OK)
        rc = read_losses(profile, far_from, out, err);
    profile_close(profile);
    if (rc != OK)
        measured_free(out);
    return rc;
}

/* Layouts that differ in a number at the end of their names ("densest-heads-6") are one strategy at several budgets. */
static char *group_of(const char *name, struct err *err) {
    size_t n = strlen(name), stem = n;
    while (stem > 0 && strchr("0123456789", name[stem - 1]))
        stem--;
    return mem_strndup(name, stem > 1 && stem < n && name[stem - 1] == '-' ? stem - 1 : n, err);
}

/* The two runs that all are compared with. */
struct ends {
    struct measured full, window;
    const char *column;
    uint32_t far_from;
    struct resampling resampling;
};

static int compare(const struct ends *e, const char *path, const char *name, struct candidates *to, struct err *err) {
    struct measured m;
    struct candidate *c;
    char *group = NULL;
    int rc = read_run(path, e->far_from, &m, err);
    if (rc != OK)
        return rc;
    rc = document_losses_check(&e->full.losses, "full", &m.losses, path, err);
    if (rc == OK)
        rc = (group = group_of(name, err)) ? candidates_add(to, group, name, e->column, m.origin, &c, err) : ERR_MEMORY;
    if (rc == OK) {
        c->read_fraction = m.read_fraction;
        c->kv_fraction = m.kv_fraction;
        rc = paired_nll_change(&m.losses, &e->full.losses, &e->resampling, &c->nll_change, err);
    }
    if (rc == OK)
        rc = paired_gap_recovered(&m.losses, &e->window.losses, &e->full.losses, &e->resampling, &c->gap_recovered, err);
    measured_free(&m);
    free(group);
    return rc;
}

static int is_run(const struct dirent *entry) {
    size_t n = strlen(entry->d_name);
    return n > 3 && strcmp(entry->d_name + n - 3, ".h5") == 0;
}

/* The window of the run of that name, and the seed that its settings have. */
static int read_window(const char *path, struct ends *e, struct err *err) {
    struct profile *profile;
    int rc = profile_open(path, &profile, err);
    if (rc == OK) {
        const struct profile_meta *m = profile_meta(profile);
        e->far_from = m->window < UINT32_MAX / 2 ? 2 * m->window : UINT32_MAX;
        e->resampling = (struct resampling){.seed = m->seed, .n = PAIRED_RESAMPLES, .level = 0.95};
    }
    profile_close(profile);
    return rc;
}

static int open_ends(const char *dir, const char *column, struct ends *e, struct err *err) {
    char *full = inside(dir, column, "full.h5", err), *window = inside(dir, column, "window.h5", err);
    *e = (struct ends){.column = column};
    int rc = full && window ? read_window(window, e, err) : ERR_MEMORY;
    if (rc == OK)
        rc = read_run(full, e->far_from, &e->full, err);
    if (rc == OK)
        rc = read_run(window, e->far_from, &e->window, err);
    free(full);
    free(window);
    return rc;
}

static int add_runs(struct candidates *to, const char *dir, const struct ends *e, struct err *err) {
    struct dirent **entries = NULL;
    char *folder = file_join(dir, e->column, err);
    int n = folder ? scandir(folder, &entries, is_run, alphasort) : 0, rc = folder ? OK : ERR_MEMORY;
    if (n < 0)
        rc = err_set(err, ERR_IO, folder, "cannot be read");
    for (int i = 0; i < n; i++) {
        char *path = rc == OK ? file_join(folder, entries[i]->d_name, err) : NULL,
             *name = rc == OK ? mem_strndup(entries[i]->d_name, strlen(entries[i]->d_name) - 3, err) : NULL;
        if (rc == OK)
            rc = path && name ? compare(e, path, name, to, err) : ERR_MEMORY;
        free(path);
        free(name);
        free(entries[i]);
    }
    free(entries);
    free(folder);
    return rc;
}

static int add_column(struct candidates *to, const char *dir, const char *column, struct err *err) {
    struct ends e;
    int rc = open_ends(dir, column, &e, err);
    if (rc == OK)
        rc = add_runs(to, dir, &e, err);
    measured_free(&e.full);
    measured_free(&e.window);
    return rc;
}

int candidates_add_directory(struct candidates *to, const char *path, struct err *err) {
    int rc = OK;
    if (holds(path, "", "compare.csv")) {
        char *table = inside(path, "", "compare.csv", err);
        rc = table ? candidates_add_table(to, table, err) : ERR_MEMORY;
        free(table);
        return rc;
    }
    for (size_t i = 0; rc == OK && i < sizeof columns / sizeof *columns; i++)
        if (holds(path, columns[i], "full.h5") && holds(path, columns[i], "window.h5"))
            rc = add_column(to, path, columns[i], err);
    return rc;
}
