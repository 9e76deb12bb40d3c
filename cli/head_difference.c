#include "cli/head_difference.h"

#include <math.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/mem.h"

enum { N_LISTED = 5 };

int head_difference_read(const char *a, const char *b, size_t n_top, struct head_difference *out, struct err *err) {
    *out = (struct head_difference){.a_name = a, .b_name = b};
    int rc = head_values_read(a, 0, &out->a, err);
    if (rc == OK)
        rc = head_values_read(b, out->a.n_kv_heads, &out->b, err);
    if (rc != OK)
        return rc;
    if (out->a.n_layers != out->b.n_layers || out->a.n_kv_heads != out->b.n_kv_heads)
        return err_set(err, ERR_INPUT, b, "has %u layers x %u KV heads, %s has %u x %u: only equal shapes can be compared",
                       out->b.n_layers, out->b.n_kv_heads, a, out->a.n_layers, out->a.n_kv_heads);
    size_t n = (size_t)out->a.n_layers * out->a.n_kv_heads;
    if (!(out->difference = mem_alloc(n, sizeof *out->difference, "differences", err)))
        return ERR_MEMORY;
    return comparison_compute(out->a.value, out->b.value, n, n_top ? n_top : (n + 3) / 4, out->difference, &out->comparison,
                              err);
}

void head_difference_free(struct head_difference *d) {
    head_values_free(&d->a);
    head_values_free(&d->b);
    free(d->difference);
    *d = (struct head_difference){0};
}

/* The head that comes after `last` (none yet: the number of heads) by the size of its difference, equal ones by index. */
static size_t next_largest(const struct head_difference *d, size_t last) {
    size_t n = (size_t)d->a.n_layers * d->a.n_kv_heads, best = n;
    for (size_t i = 0; i < n; i++) {
        double size = fabs(d->difference[i]), limit = last < n ? fabs(d->difference[last]) : (double)INFINITY;
        if (isnan(size) || size > limit || (size == limit && i <= last && last < n))
            continue;
        if (best == n || size > fabs(d->difference[best]))
            best = i;
    }
    return best;
}

void head_difference_put(const struct head_difference *d, struct str *out) {
    const struct comparison *c = &d->comparison;
    size_t n = (size_t)d->a.n_layers * d->a.n_kv_heads, at = n;
    str_printf(out, "a: %s (%s)\nb: %s (%s)\n", d->a_name, d->a.quantity, d->b_name, d->b.quantity);
    if (c->n_heads == 0) {
        str_puts(out, "no head is known to both\n");
        return;
    }
    str_printf(out, "%zu heads known to both: mean %.4f and %.4f, mean absolute difference %.4f\n", c->n_heads, c->mean_a,
               c->mean_b, c->mean_absolute_difference);
    if (isnan(c->spearman))
        str_puts(out, "rank correlation: none, all heads of one are alike\n");
    else
        str_printf(out, "rank correlation (Spearman) %.4f\n", c->spearman);
    str_printf(out, "the %zu largest of each: %.0f %% in common\nlargest differences, b - a:\n", c->n_top,
               100 * c->top_overlap);
    for (int i = 0; i < N_LISTED && (at = next_largest(d, at)) < n; i++)
        str_printf(out, "  layer %zu head %zu: %+.4f (%.4f to %.4f)\n", at / d->a.n_kv_heads, at % d->a.n_kv_heads,
                   d->difference[at], d->a.value[at], d->b.value[at]);
}

json_t *head_difference_json(const struct head_difference *d) {
    const struct comparison *c = &d->comparison;
    json_t *map = json_array();
    for (size_t layer = 0; layer < d->a.n_layers; layer++) {
        json_t *row = json_array();
        for (size_t head = 0; head < d->a.n_kv_heads; head++)
            json_array_append_new(row, json_finite(d->difference[layer * d->a.n_kv_heads + head]));
        json_array_append_new(map, row);
    }
    return json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:I, s:o, s:o, s:o, s:o, s:I, s:o, s:o}", "schema", "spkv-comparison",
                     "version", 1, "a", d->a_name, "b", d->b_name, "a_quantity", d->a.quantity, "b_quantity", d->b.quantity,
                     "heads", (json_int_t)c->n_heads, "mean_a", json_finite(c->mean_a), "mean_b", json_finite(c->mean_b),
                     "mean_absolute_difference", json_finite(c->mean_absolute_difference), "spearman",
                     json_finite(c->spearman), "top", (json_int_t)c->n_top, "top_overlap", json_finite(c->top_overlap),
                     "difference", map);
}
