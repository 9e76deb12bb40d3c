/* terminal_color.h - colours in a terminal. Appending to a struct str, whose errors are sticky. */
#ifndef SPKV_REPORTS_TERMINAL_COLOR_H
#define SPKV_REPORTS_TERMINAL_COLOR_H

#include <stdbool.h>

#include "base/str.h"
#include "reports/colormap.h"

/* The colour of what follows, or of the ground under it; one of 256, or of 24 bits. */
void terminal_put_color(struct str *out, struct rgb color, bool ground, bool truecolor);
void terminal_put_plain(struct str *out); /* the terminal's own colours again */

#endif
