/* ruler_internal.h - what the builders of RULER's tasks share. Only ruler*.c include it. */
#ifndef SPKV_DATASETS_RULER_INTERNAL_H
#define SPKV_DATASETS_RULER_INTERNAL_H

#include <jansson.h>

#include "base/str.h"
#include "datasets/ruler.h"
#include "datasets/task_rows.h"

/* What one row is made from, whatever its size. */
struct ruler_plan {
    const struct ruler_task *task;
    const struct ruler_options *options;
    const struct documents *documents; /* of a QA task */
    size_t question;                   /* index into them */
    struct draws draws;                /* where every build of the row begins */
};

/* One row without its lengths. */
struct ruler_sample {
    struct str input, prefix; /* what the model reads: the input, then how its answer begins */
    json_t *outputs;          /* references */
    bool failed;              /* out of memory for them */
};
void ruler_put_output(struct ruler_sample *sample, const char *text);

enum needle_hay { HAY_NOISE, HAY_TEXT, HAY_NEEDLES };
enum needle_part { PART_WORD, PART_NUMBER, PART_UUID };

struct needle_shape {
    enum needle_hay hay;
    int n_keys, n_values, n_queries;
    enum needle_part key, value;
};
enum { NEEDLES_MAX = 4 /* keys, and needles in all */, NEEDLE_DEPTHS = 40 };

/* Fills an empty sample with n_units of haystack: sentences, lines, words or documents. */
typedef void ruler_build(const struct ruler_plan *plan, size_t n_units, struct ruler_sample *out);
typedef size_t ruler_bound(const struct ruler_plan *plan);

struct ruler_family {
    enum ruler_group group;
    int n_new;
    bool any_counts;
    ruler_build *build;
    ruler_bound *least, *most; /* units that the build can do with */
};

struct ruler_task {
    const char *name;
    const struct ruler_family *family;
    struct needle_shape needles; /* of niah_ */
};

extern const char ruler_noise[]; /* a line that says nothing */

ruler_build ruler_build_needles, ruler_build_chain, ruler_build_common, ruler_build_frequent, ruler_build_question;
ruler_bound ruler_least_needles, ruler_least_chain, ruler_least_common, ruler_least_frequent, ruler_least_documents;
ruler_bound ruler_most_any, ruler_most_common, ruler_most_documents;

/* k <= NEEDLE_DEPTHS different numbers below n >= k, in rising order. */
void ruler_draw_rising(struct draws *draws, size_t n, size_t k, size_t *out);

void ruler_shuffle(struct draws *draws, size_t *items, size_t n);

#endif
