/* report.h - a directory with everything there is to see of one or more runs: index.html (complete in itself), heatmaps as
 * PNG, figures with data and script, tables as CSV. With one run the files lie in the directory itself, with several in
 * run1/, run2/, ... and differences (each run minus the first, where the shapes agree) above them. Logs of training are drawn
 * as curves; their files lie in the directory itself when there is one log and no run, else in training1/, training2/, ...
 * Candidates (layouts, tables of policies) are drawn beside each other, their files in the directory itself.
 *
 * The directory is made beside its place and moved there when it is complete, in one step: whatever happens, what is there
 * is the old report or the new one. One thread. */
#ifndef SPKV_REPORTS_REPORT_H
#define SPKV_REPORTS_REPORT_H

#include <stdbool.h>
#include <stddef.h>

#include "analyze/profile.h"
#include "base/err.h"
#include "reports/candidates.h"
#include "reports/token_text.h"
#include "reports/training_log.h"

struct report_options {
    const char *dir;
    bool force;          /* replace an existing report; a directory that is neither empty nor a report is always refused */
    const char *gnuplot; /* the program, NULL = "gnuplot" */
    const uint64_t *sequences; /* (n_sequences) whose tokens are drawn, where tokens were recorded; none = the first */
    size_t n_sequences;
    const char *version; /* for the foot of the page: " 0.1.0 (abcdef)" */
    void (*note)(void *self, const char *text); /* a figure that could not be drawn; NULL = nobody listens */
    void *self;
};

/* What the report shows, in this order; at least one of them. */
struct report_input {
    struct profile *const *profiles;
    size_t n_profiles;
    const struct token_text *texts; /* (n_profiles) what token ids stand for; NULL = nobody knows */
    struct training_log *const *logs;
    size_t n_logs;
    const struct candidates *candidates; /* NULL = none */
};

int report_write(const struct report_input *input, const struct report_options *options, struct err *err);

#endif
