/* run_sequence.h - one sequence of a run that recorded its tokens: where its tokens lie and where its text came from. */
#ifndef SPKV_REPORTS_RUN_SEQUENCE_H
#define SPKV_REPORTS_RUN_SEQUENCE_H

#include "reports/run.h"

struct run_sequence {
    size_t row;             /* of the run file */
    uint64_t index;         /* in the run's global list, document and offset_tok as there */
    uint64_t document, offset_tok;
    const char *source;     /* file, borrowed from the run */
    uint64_t first;         /* its tokens are first .. first + n - 1 of the run's */
    size_t n;
    size_t n_in_window;     /* of them still inside the window at the end */
};

/* Finds the sequence of that number in the global list. ERR_INPUT when the run does not hold it or recorded no tokens. */
int run_sequence_find(struct profile *profile, const struct run *run, uint64_t index, struct run_sequence *out,
                      struct err *err);

/* The number of the first sequence, 0 in a run without any. */
int run_sequence_first(struct profile *profile, uint64_t *index, struct err *err);

/* "Sequence 3: 1,024 tokens from token 0 of document 2 (a.txt)." */
void run_sequence_put(const struct run_sequence *sequence, struct str *out);

#endif
