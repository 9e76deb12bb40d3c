#include "reports/candidate_figures.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { MAX_ORIGINS = 3 /* in a caption */ };

enum axis { AXIS_PREDICTED_KV, AXIS_KV, AXIS_READ };
enum height { HEIGHT_COVERAGE, HEIGHT_LOSS, HEIGHT_GAP };

static const struct kind {
    const char *name, *title, *column;
    bool layouts; /* only of layout files, else only of others */
    enum axis x;
    enum height y;
} kinds[CANDIDATE_N_FIGURES] = {
    [CANDIDATE_COVERAGE] = {"layouts_coverage", "Coverage of layouts against the cache they keep", "", true,
                            AXIS_PREDICTED_KV, HEIGHT_COVERAGE},
    [CANDIDATE_LAYOUT_ZERO_SHOT] = {"layouts_loss_zero_shot", "Loss of layouts against the cache they keep, zero-shot",
                                    "zero_shot", true, AXIS_KV, HEIGHT_LOSS},
    [CANDIDATE_LAYOUT_HEALED] = {"layouts_loss_healed", "Loss of layouts against the cache they keep, healed", "healed",
                                 true, AXIS_KV, HEIGHT_LOSS},
    [CANDIDATE_LOSS] = {"policies_loss", "Loss of pruning policies against what they read", "", false, AXIS_READ,
                        HEIGHT_LOSS},
    [CANDIDATE_LOSS_ZERO_SHOT] = {"cases_loss_zero_shot", "Loss against what is read, zero-shot", "zero_shot", false,
                                  AXIS_READ, HEIGHT_LOSS},
    [CANDIDATE_LOSS_HEALED] = {"cases_loss_healed", "Loss against what is read, healed", "healed", false, AXIS_READ,
                               HEIGHT_LOSS},
    [CANDIDATE_GAP] = {"policies_gap", "Gap recovered by pruning policies against what they read", "", false, AXIS_READ,
                       HEIGHT_GAP},
    [CANDIDATE_GAP_ZERO_SHOT] = {"cases_gap_zero_shot", "Gap recovered against what is read, zero-shot", "zero_shot", false,
                                 AXIS_READ, HEIGHT_GAP},
    [CANDIDATE_GAP_HEALED] = {"cases_gap_healed", "Gap recovered against what is read, healed", "healed", false, AXIS_READ,
                              HEIGHT_GAP},
};

static const struct {
    const char *name, *title;
} axes[] = {[AXIS_PREDICTED_KV] = {"kv_fraction_32768", "KV pairs kept at 32,768 tokens, of those of full attention"},
            [AXIS_KV] = {"kv_fraction", "KV bytes used, of those of full attention"},
            [AXIS_READ] = {"read_fraction", "read fraction (query-key pairs read, of all causal ones)"}};

static const struct {
    const char *name, *title, *sentence;
    double unit;
} heights[] = {
    [HEIGHT_COVERAGE] = {"coverage", "coverage",
                         "Coverage: sum of the densities of the heads that stay global over the sum of all densities. It "
                         "does not order layouts by itself: measure them with spkv verify. Grey: what no other layout beats "
                         "with as small a cache.",
                         0},
    [HEIGHT_LOSS] = {"nll_change", "loss over that of full attention (%)",
                     "Loss over that of full attention, minus 1; bars are intervals over documents. Lower is better. Points "
                     "of one cost stand side by side. Grey: what no other beats at as low a cost.",
                     0.01},
    [HEIGHT_GAP] = {"gap_recovered", "gap recovered (%)",
                    "Gap recovered: 0 is the window alone, 100 full attention, over predictions that have something beyond "
                    "the window to lose; bars are intervals over documents. Higher is better. Points of one cost stand side "
                    "by side. Grey: what no other beats at as low a cost.",
                    0.01}};

static double x_of(const struct candidate *c, enum axis axis) {
    return axis == AXIS_READ ? c->read_fraction : axis == AXIS_KV ? c->kv_fraction : c->predicted_kv_fraction;
}

static struct estimate y_of(const struct candidate *c, enum height height) {
    return height == HEIGHT_LOSS  ? c->nll_change
           : height == HEIGHT_GAP ? c->gap_recovered
                                  : (struct estimate){c->coverage, NAN, NAN};
}

static bool belongs(const struct candidate *c, const struct kind *k) {
    return c->is_layout == k->layouts && strcmp(c->column, k->column) == 0 && !isnan(x_of(c, k->x)) &&
           !isnan(y_of(c, k->y).value);
}

bool candidates_have_figure(const struct candidates *candidates, enum candidate_figure_kind kind) {
    for (size_t i = 0; i < candidates->n; i++)
        if (belongs(&candidates->items[i], &kinds[kind]))
            return true;
    return false;
}

/* -- points -- */

/* By group, then by x, then by y. */
static int in_order(const void *a, const void *b) {
    const struct figure_point *p = a, *q = b;
    if (p->group != q->group)
        return p->group < q->group ? -1 : 1;
    return p->x != q->x ? (p->x < q->x ? -1 : 1) : p->y < q->y ? -1 : p->y > q->y;
}

/* The number of the group of that name; new names in the order in which they come, from 1 on: 0 is the front. */
static size_t group_of(struct candidate_figure *f, const char *name) {
    for (size_t g = 1; g < f->figure.n_groups; g++)
        if (strcmp(f->groups[g], name) == 0)
            return g;
    f->groups[f->figure.n_groups] = name;
    return f->figure.n_groups++;
}

static void put_points(const struct candidates *candidates, const struct kind *k, struct candidate_figure *f) {
    f->groups[0] = "not beaten by another";
    f->figure.n_groups = 1;
    for (size_t i = 0; i < candidates->n; i++) {
        const struct candidate *c = &candidates->items[i];
        if (!belongs(c, k))
            continue;
        struct estimate y = y_of(c, k->y);
        f->points[f->figure.n_points++] = (struct figure_point){.group = group_of(f, c->group), .x = x_of(c, k->x),
                                                                .y = y.value, .low = y.low, .high = y.high,
                                                                .name = c->name};
    }
}

/* Whether another point costs no more and is no worse, and better in one of both. */
static bool is_beaten(const struct candidate_figure *f, size_t n, size_t i, bool low_is_good) {
    const struct figure_point *p = &f->points[i];
    for (size_t j = 0; j < n; j++) {
        const struct figure_point *q = &f->points[j];
        double gain = low_is_good ? p->y - q->y : q->y - p->y;
        if (q->x <= p->x && gain >= 0 && (q->x < p->x || gain > 0))
            return true;
    }
    return false;
}

/* Copies of the points on the front, as group 0 behind the others; they are sorted to the front of the list. */
static void put_front(struct candidate_figure *f, bool low_is_good) {
    size_t n = f->figure.n_points;
    for (size_t i = 0; i < n; i++)
        if (!is_beaten(f, n, i, low_is_good)) {
            struct figure_point p = f->points[i];
            p.group = 0;
            p.low = p.high = NAN;
            f->points[f->figure.n_points++] = p;
        }
    qsort(f->points, f->figure.n_points, sizeof *f->points, in_order);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Losses of a window can be a thousand times those of a good policy: then the axis is bent at their median. */
static int bend(struct candidate_figure *f, struct err *err) {
    size_t n = f->figure.n_points;
    double *size = mem_alloc(n, sizeof *size, "a figure", err), low = 0, high = 0;
    if (!size)
        return ERR_MEMORY;
    for (size_t i = 0; i < n; i++) {
        const struct figure_point *p = &f->points[i];
        double unit = f->figure.y_unit;
        size[i] = fabs(p->y) / unit;
        low = fmin(low, fmin(p->y, p->low) / unit); /* of a number and NaN: the number */
        high = fmax(high, fmax(p->y, p->high) / unit);
    }
    qsort(size, n, sizeof *size, by_size);
    double median = size[n / 2] > 0 ? size[n / 2] : size[n - 1];
    if (size[n - 1] > 10 * median && median > 0) {
        f->figure.y_bend = median;
        f->figure.y_low = low < 0 ? 1.2 * low : 0;
        f->figure.y_high = 1.4 * high;
    }
    free(size);
    return OK;
}

/* The different origins of what is shown. */
static void put_origins(const struct candidates *candidates, const struct kind *k, struct str *out) {
    const char *said[MAX_ORIGINS];
    size_t n = 0, left_out = 0;
    for (size_t i = 0; i < candidates->n; i++) {
        const char *origin = candidates->items[i].origin;
        bool known = !belongs(&candidates->items[i], k) || !*origin;
        for (size_t j = 0; !known && j < n; j++)
            known = strcmp(said[j], origin) == 0;
        if (known)
            continue;
        if (n == MAX_ORIGINS) {
            left_out++;
            continue;
        }
        said[n++] = origin;
        str_puts(out, out->len ? " " : "");
        str_puts(out, origin);
    }
    if (left_out)
        str_puts(out, " Others come from elsewhere: candidates.csv says where.");
}

static void describe(const struct kind *k, struct candidate_figure *f) {
    f->figure.name = k->name;
    f->figure.kind = FIGURE_POINTS;
    f->figure.title = k->title;
    f->figure.alt = "Points with intervals, a line per strategy or policy; the numbers are in candidates.csv.";
    f->figure.x_name = axes[k->x].name;
    f->figure.x_title = axes[k->x].title;
    f->figure.y_name = heights[k->y].name;
    f->figure.y_title = heights[k->y].title;
    f->figure.y_unit = heights[k->y].unit;
    f->figure.front = true;
    f->figure.x_low = 0;
    f->figure.x_high = f->figure.y_low = f->figure.y_high = f->figure.mark = NAN;
    f->caption[0] = heights[k->y].sentence;
    f->caption[1] = str_text(&f->origin);
    f->figure.caption = f->caption;
    f->figure.n_caption = 2;
    f->figure.points = f->points;
    f->figure.groups = f->groups;
}

int candidate_figure_create(const struct candidates *candidates, enum candidate_figure_kind kind,
                            struct candidate_figure *f, struct err *err) {
    const struct kind *k = &kinds[kind];
    ASSERT(candidates_have_figure(candidates, kind));
    *f = (struct candidate_figure){.points = mem_alloc(2 * candidates->n, sizeof *f->points, "a figure", err),
                                   .groups = mem_alloc(candidates->n + 1, sizeof *f->groups, "a figure", err)};
    int rc = f->points && f->groups ? OK : ERR_MEMORY;
    if (rc == OK) {
        put_origins(candidates, k, &f->origin);
        describe(k, f);
        put_points(candidates, k, f);
        put_front(f, k->y == HEIGHT_LOSS);
        rc = f->origin.failed ? err_memory(err, "a caption", 0) : OK;
    }
    if (rc == OK && k->y == HEIGHT_LOSS)
        rc = bend(f, err);
    if (rc != OK)
        candidate_figure_free(f);
    return rc;
}

void candidate_figure_free(struct candidate_figure *f) {
    free(f->points);
    free(f->groups);
    str_free(&f->origin);
    *f = (struct candidate_figure){0};
}

/* -- the table -- */

static const struct column columns[] = {{"group", "policy or strategy", COLUMN_TEXT, 0},
                                        {"name", "name", COLUMN_TEXT, 0},
                                        {"column", "weights", COLUMN_TEXT, 0},
                                        {"global_heads", "global heads", COLUMN_REAL, 0},
                                        {"coverage", "coverage", COLUMN_REAL, 4},
                                        {"kv_fraction_32768", "KV pairs at 32k, predicted", COLUMN_REAL, 4},
                                        {"read_fraction", "read fraction", COLUMN_REAL, 4},
                                        {"kv_fraction", "KV bytes used", COLUMN_REAL, 4},
                                        {"nll_change", "loss change", COLUMN_REAL, 5},
                                        {"nll_change_low", "from", COLUMN_REAL, 5},
                                        {"nll_change_high", "to", COLUMN_REAL, 5},
                                        {"gap_recovered", "gap recovered", COLUMN_REAL, 4},
                                        {"gap_recovered_low", "from", COLUMN_REAL, 4},
                                        {"gap_recovered_high", "to", COLUMN_REAL, 4},
                                        {"origin", NULL, COLUMN_TEXT, 0}};

void candidate_table(const struct candidates *candidates, struct table *out) {
    table_init(out, columns, sizeof columns / sizeof *columns);
    for (size_t i = 0; i < candidates->n; i++) {
        const struct candidate *c = &candidates->items[i];
        const double numbers[] = {c->n_global, c->coverage, c->predicted_kv_fraction, c->read_fraction, c->kv_fraction,
                                  c->nll_change.value, c->nll_change.low, c->nll_change.high, c->gap_recovered.value,
                                  c->gap_recovered.low, c->gap_recovered.high};
        table_put_text(out, c->group);
        table_put_text(out, c->name);
        table_put_text(out, c->column);
        for (size_t j = 0; j < sizeof numbers / sizeof *numbers; j++)
            table_put_real(out, numbers[j]);
        table_put_text(out, c->origin);
    }
}
