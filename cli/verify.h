/* verify.h - ways of attention measured side by side on one text: the parts of spkv verify. A case is one attention (full,
 * the window alone, SP-KV, a layout); it is measured with the weights as they are (zero-shot) and, on request, after a
 * training of its own (healed). The two columns are never mixed. */
#ifndef SPKV_CLI_VERIFY_H
#define SPKV_CLI_VERIFY_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyze/layout.h"
#include "cli/figures.h"
#include "cli/run_corpus.h"
#include "cli/run_options.h"

enum { VERIFY_MAX_ARGUMENTS = 4096, VERIFY_MAX_SETTINGS = 64, VERIFY_SINKS = 4 /* of the window alone */ };

/* Strings are borrowed from argv. */
struct verify_options {
    struct run_options_cli run;
    struct corpus_options_cli corpus;
    const char *output, *csv;          /* the directory; NULL = no CSV */
    const char *against;               /* name of a case that all are compared with, too; NULL = none */
    char *corpora[VERIFY_MAX_ARGUMENTS];
    const char *layouts[VERIFY_MAX_ARGUMENTS], *policies[VERIFY_MAX_ARGUMENTS];
    size_t n_layouts, n_policies;
    uint32_t n_resamples;
    int decode_context;                /* tokens before decoding is timed; 0 = not timed */
    bool keep_layouts;                 /* layout files are not written to */
    int64_t heal_tok;                  /* 0 = no healing */
    const char *heal_corpora[VERIFY_MAX_ARGUMENTS], *heal_schedule; /* NULL = defaults */
    size_t n_heal_corpora;
    struct {
        char *key, *value;
    } heal_settings[VERIFY_MAX_SETTINGS];
    size_t n_heal_settings;
    bool keep_models;
};

enum verify_column { COLUMN_ZERO_SHOT, COLUMN_HEALED, N_COLUMNS };
extern const char *const verify_column_names[N_COLUMNS]; /* "zero_shot", "healed" */

struct verify_case {
    char *name;               /* of its files, unique */
    char *policy;             /* as --policy takes it */
    const char *layout_path;  /* NULL = no layout */
    struct layout *layout;
    bool chosen_here;         /* the layout was chosen on this very text */
    struct figures figures[N_COLUMNS];
};

enum { CASE_FULL, CASE_WINDOW }; /* the first two cases are always these */

struct verification {
    const struct verify_options *options;
    char *command;            /* line */
    struct loaded loaded;
    struct verify_case *cases;
    size_t n, cap;
    uint32_t window, far_from; /* the gap is looked at from position 2 * window on */
    struct measured_text text;
    double gap[N_COLUMNS];    /* window over full, minus 1 */
    double rank_correlation;  /* of the losses of the window and the layouts in both columns; NaN = no healing */
};

/* --- cases: verify_case.c */
int verify_add_policy(struct verification *v, const char *name, const char *policy, struct err *err);
int verify_add_layout(struct verification *v, const char *path, struct err *err);
void verify_free_cases(struct verification *v);
char *verify_path(const struct verification *v, const char *folder, const char *name, const char *suffix, struct err *err);

/* Runs a case on a model (or takes its finished run) as FOLDER/NAME.h5 of the output and reads the figures. */
int verify_measure(struct verification *v, const struct loaded *loaded, struct verify_case *c, enum verify_column column,
                   struct err *err);

/* Takes the figures of a finished run. */
int verify_read(struct verification *v, struct verify_case *c, enum verify_column column, struct err *err);

/* NULL when there is no case of that name. */
const struct verify_case *verify_find(const struct verification *v, const char *name);

/* Changes and gaps of a column in which every case is there. */
int verify_compare(struct verification *v, enum verify_column column, struct err *err);

/* --- layouts: verify_layout.c */
/* Whether the layout was chosen on one of these files, as far as its made_by and the profiles that it names can tell. */
bool layout_chosen_on(const struct layout *layout, const json_t *file_hashes);

/* Puts the figures into the layout's file. */
int verify_write_layout(const struct verification *v, const struct verify_case *c, struct err *err);

/* --- healing: verify_heal.c */
/* Trains every case and measures it. */
int verify_heal(struct verification *v, struct err *err);

/* --- decode speed: decode_speed.c */
/* Tokens per second of greedy decoding behind a context, the median of three runs. The context is text of the run file. */
int decode_speed(const struct loaded *loaded, const struct policy *policy, const char *run, int context, int chunk,
                 double *tok_per_s, struct err *err);

/* --- tables: verify_table.c */
json_t *verify_figures_json(const struct verification *v, const struct figures *f, enum verify_column column);
void verify_print_text(const struct verification *v);
void verify_print_json(const struct verification *v);
int verify_write_csv(const struct verification *v, const char *path, struct err *err);

#endif
