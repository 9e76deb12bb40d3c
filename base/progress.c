#include "base/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

enum { BAR_CELLS = 30 };

void progress_begin(struct progress *p, const char *label, const char *unit, uint64_t total, bool quiet) {
    const char *term = getenv("TERM");
    *p = (struct progress){.label = label, .unit = unit, .total = total, .quiet = quiet};
    p->terminal = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
    p->start_us = p->last_us = clock_us();
}

static void draw(const struct progress *p, uint64_t now) {
    double seconds = (double)(now - p->start_us) * 1e-6, rate = seconds > 0 ? (double)p->done / seconds : 0;
    double frac = p->total ? (double)p->done / (double)p->total : 0;
    char left[32] = "?", bar[BAR_CELLS + 1];
    if (frac > 0)
        clock_format_duration(seconds * (1 - frac) / frac, left);
    if (!p->terminal) {
        fprintf(stderr, "%s: %llu %s", p->label, (unsigned long long)p->done, p->unit);
        if (p->total)
            fprintf(stderr, " of about %llu", (unsigned long long)p->total);
        fprintf(stderr, ", %.0f %s/s, %s left\n", rate, p->unit, left);
        return;
    }
    int filled = (int)(frac * BAR_CELLS);
    for (int i = 0; i < BAR_CELLS; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[BAR_CELLS] = 0;
    fprintf(stderr, "\r%s [%s] %3.0f %% %.0f %s/s, %s left\033[K", p->label, bar, 100 * frac, rate, p->unit, left);
}

void progress_update(struct progress *p, uint64_t done) {
    uint64_t now = clock_us(), interval = p->terminal ? 100000 : 5000000;
    p->done = done;
    if (p->quiet || now - p->last_us < interval)
        return;
    p->last_us = now;
    draw(p, now);
}

void progress_end(struct progress *p) {
    if (!p->quiet && p->terminal)
        fputs("\r\033[K", stderr);
}
