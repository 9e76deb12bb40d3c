/* refine_text.h - the two halves of a text in memory, and the loss of any layout on them. One thread. */
#ifndef SPKV_CLI_REFINE_TEXT_H
#define SPKV_CLI_REFINE_TEXT_H

#include "analyze/layout.h"
#include "analyze/paired.h"
#include "cli/refine.h"
#include "cli/run_options.h"
#include "train/pieces.h"

/* Sequences of every second document. */
struct half {
    struct pieces *pieces;
    uint64_t *document;   /* (sequences) */
    size_t document_cap, n, n_documents;
};

struct refine_text {
    struct half search, held_out; /* even and odd documents */
    json_t *corpora, *hashes;     /* names, and hashes of the files */
};

int refine_text_read(const struct refine_options *options, const struct loaded *loaded, struct refine_text *out,
                     struct err *err);
void refine_text_free(struct refine_text *text); /* legal on a zeroed struct */

/* Losses of a layout by document; free them. ERR_INCOMPLETE after a stop signal. */
int refine_text_measure(const struct loaded *loaded, const struct half *half, const struct layout *layout,
                        struct document_losses *out, struct err *err);

#endif
