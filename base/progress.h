/* progress.h - progress on stderr: a bar on a terminal, a line every few seconds elsewhere, nothing when quiet. Used by
 * cli/ only; libraries report numbers, not text. One thread. */
#ifndef SPKV_BASE_PROGRESS_H
#define SPKV_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *label, *unit; /* borrowed: "profile", "tok" */
    uint64_t total, done;     /* in units; total 0 = unknown */
    uint64_t start_us, last_us;
    bool quiet, terminal;
};

void progress_begin(struct progress *p, const char *label, const char *unit, uint64_t total, bool quiet);

/* Says how far the work is. Draws at most ten times a second on a terminal, every five seconds elsewhere. */
void progress_update(struct progress *p, uint64_t done);

/* Removes the bar from the terminal. */
void progress_end(struct progress *p);

#endif
