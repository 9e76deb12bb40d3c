/* figures.h - what an attention came to on a text, read from its run file, and what that is beside full attention and the
 * window alone. One measurement is one run file; shared by the commands that compare several of the same sequences. */
#ifndef SPKV_CLI_FIGURES_H
#define SPKV_CLI_FIGURES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "analyze/paired.h"
#include "cli/run_corpus.h"

struct figures {
    bool there;
    struct document_losses losses;
    uint64_t n_sequences, n_tok, n_predicted;
    double nll;                        /* nat per predicted token */
    double read_fraction, long_range_density, kv_fraction;
    double kv_bytes_used, kv_bytes_allocated, kv_bytes_full; /* mean over sequences, after the last token */
    double kv_bytes_peak;              /* of the pool that a batch shares, at any moment */
    double decode_tok_per_s;           /* NaN = not timed */
    struct estimate nll_change;        /* against full attention */
    struct estimate against;           /* change against another case; NaN = none */
    struct estimate gap_recovered;     /* between the window alone and full attention */
};

/* What was measured on: taken from the first run that is read. */
struct measured_text {
    json_t *description; /* corpora, text_hash, max_length, stride, prefill */
    json_t *file_hashes; /* an array */
};

int measured_text_describe(const struct profile *profile, struct measured_text *out, struct err *err);
void measured_text_free(struct measured_text *text); /* legal on a zeroed struct */

bool hashes_hold(const json_t *array, const char *hash);

/* Whether a hash stands in both arrays (NULL = none): files that two texts share. */
bool hashes_meet(const json_t *a, const json_t *b);

/* The figures of a finished run that recorded tokens; predictions at positions far_from and later count for the gap. */
int figures_read(const char *path, uint32_t far_from, struct figures *out, struct measured_text *text, struct err *err);

/* A measurement: the corpus under a policy of a loaded model. */
struct measurement {
    const struct run_options_cli *run;
    const struct corpus_options_cli *corpus;
    const struct loaded *loaded;
    const char *policy;  /* as --policy takes it */
    const char *path;    /* of the run file */
    const char *command; /* line, for its record */
};

/* Runs it, or takes the finished run; record as in run_corpus(). */
int measurement_run(const struct measurement *m, unsigned record, struct err *err);

/* Change of the loss and gap recovered, after a check that all three hold the same predictions. Names are for errors. */
int figures_compare(struct figures *f, const char *name, const struct figures *full, const char *full_name,
                    const struct figures *window, const struct resampling *resampling, struct err *err);

/* Text for a file name: what cannot stand in one becomes "_". Free it; NULL and ERR_MEMORY on failure. */
char *plain_name(const char *text, size_t n, struct err *err);

#endif
