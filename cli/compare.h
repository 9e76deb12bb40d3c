/* compare.h - pruning policies on one text at matched cost: the parts of spkv compare. A row is one policy with all its
 * parameters on one set of weights; it is measured into a run file of its own. Policies for dense models run on the dense
 * weights (the twin's), those that were trained with their weights on these, and every percentage is against full attention
 * on the dense ones (docs/compare.md). Nothing here knows a policy by its kind: what sets its cost is its knob
 * (engine/policy.h). */
#ifndef SPKV_CLI_COMPARE_H
#define SPKV_CLI_COMPARE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyze/calibration.h"
#include "cli/figures.h"
#include "cli/run_corpus.h"
#include "cli/run_options.h"

enum {
    COMPARE_MAX_ARGUMENTS = 4096,
    COMPARE_MAX_FRACTIONS = 64,
    COMPARE_SINKS = 4,      /* of policies on the dense weights, unless --sinks */
    CALIBRATE_EVERY = 5,    /* without --calibrate: documents 0, 5, 10, ... are calibrated on, the others measured */
    CALIBRATE_LIMIT = 32,   /* sequences */
    CALIBRATE_STEPS = 24,   /* for one row at most */
};

/* Strings are borrowed from argv. */
struct compare_options {
    struct run_options_cli run;
    struct corpus_options_cli corpus;
    char *corpora[COMPARE_MAX_ARGUMENTS], *calibrate[COMPARE_MAX_ARGUMENTS];
    size_t n_calibrate;           /* 0 = a part of the corpora */
    uint64_t calibrate_limit;     /* sequences */
    const char *twin;             /* a dense model; NULL = MODEL itself */
    const char *output;           /* the directory */
    const char *policies;         /* "NAME[:KEY=VALUE,...],..." */
    double fractions[COMPARE_MAX_FRACTIONS]; /* wanted read fractions */
    size_t n_fractions;
    bool match_spkv;              /* ... and that of SP-KV at its own threshold */
    double tolerance;             /* relative: a row that is off by more is not matched */
    uint32_t n_resamples;
};

/* Weights, and how policies run on them. */
struct weights {
    const char *name;             /* "twin", "spkv" (trained with a predictor) or "dense" */
    struct run_options_cli run;   /* with the directory, window and sinks */
    struct loaded *loaded;
};

struct compared_policy {
    char *spec;                   /* as asked for */
    const struct weights *weights;
    struct policy_knob knob;      /* key NULL: measured as it is */
    struct calibration calibration;
};

enum row_role { ROW_REFERENCE, ROW_AS_GIVEN, ROW_CALIBRATED };
extern const char *const row_role_names[3];

/* One corpus of several. */
struct corpus_figures {
    uint64_t n_predicted;
    double nll, nll_change, read_fraction, long_range_density, kv_fraction;
};

struct compare_row {
    enum row_role role;
    const struct weights *weights;
    char *spec, *path;            /* complete, and its run file */
    /* Read fractions, NaN = none: asked for; what that is on the calibration text, and was reached there. */
    double wanted, calibration_wanted, calibrated;
    size_t n_steps;               /* of the calibration */
    bool matched;
    /* Of the resolved policy. */
    const char *policy;           /* name, static */
    const char *knob;             /* static; NULL = none */
    enum allocation allocation;
    int window, sinks;
    json_t *parameters;
    uint32_t chunk, batch;        /* chunk: at whose ends pairs are evicted, else of the run */
    struct figures figures;
    struct corpus_figures *corpora; /* (n_corpora) of the comparison */
};

enum { ROW_FULL, ROW_WINDOW }; /* the first two rows: the ends of the gap, on the dense weights */

struct policy_comparison {
    const struct compare_options *options;
    char *command;                /* line */
    struct loaded model, twin;    /* twin zero without --twin */
    struct weights dense;         /* of policies for dense models */
    struct weights trained;       /* of those that were trained with their weights; loaded NULL = MODEL is not such */
    const struct weights *own;    /* where MODEL's predictor runs (one that was fitted to a frozen model: on the dense
                                     weights); NULL = it has none */
    struct corpus_options_cli calibration_corpus, measured_corpus;
    const char *calibration_kind; /* "other text", "other documents", "the same text" */
    uint32_t window, far_from;    /* the gap is looked at from position 2 * window on */
    uint32_t longest;             /* sequence of both texts */
    double floor, calibration_floor; /* what the window and the sinks alone read: of the measured text, of the other */
    struct compared_policy *policies;
    size_t n_policies;
    struct compare_row *rows;
    size_t n, cap;
    struct measured_text text, calibration_text;
    bool overlap;                 /* files of both are the same */
    size_t n_corpora;
    double gap;                   /* window over full, minus 1 */
};

/* --- policies: compare_policies.c */
/* Opens MODEL and the twin; checks that they read the same tokens. */
int compare_open(struct policy_comparison *c, struct err *err);
/* Resolves the list of policies, window and random added where they are not named. */
int compare_list_policies(struct policy_comparison *c, struct err *err);
void compare_close(struct policy_comparison *c);

/* --- calibration: compare_calibrate.c */
/* Chooses the documents, reads the lengths of their sequences and refuses fractions below the floor. */
int compare_begin_calibration(struct policy_comparison *c, struct err *err);
/* The specification at which a policy reads what `wanted` is on the calibration text; fills what the row says of it. The
 * caller frees *spec. */
int compare_calibrate(struct policy_comparison *c, struct compared_policy *policy, double wanted, struct compare_row *row,
                      char **spec, struct err *err);
/* One line a step. */
int compare_write_calibration(const struct policy_comparison *c, const char *path, struct err *err);

/* --- rows: compare_rows.c */
/* Measures every row: the references, then every policy as it is or at every wanted read fraction. */
int compare_measure(struct policy_comparison *c, struct err *err);

/* DIR/FOLDER/WEIGHTS-SPEC.h5; free it. */
char *compare_path(const struct policy_comparison *c, const char *folder, const struct weights *weights, const char *spec,
                   struct err *err);

/* --- tables: compare_table.c */
json_t *compare_json(const struct policy_comparison *c);
int compare_write(const struct policy_comparison *c, struct err *err); /* compare.csv, corpora.csv, compare.json */
void compare_print(const struct policy_comparison *c);

#endif
