/* colormap.h - numbers to colours. Pure functions, any thread.
 *
 * COLORMAP_VIRIDIS: the perceptually uniform map of matplotlib (S. van der Walt, N. Smith; CC0), every fifth of its 256
 * entries, linear in between: no channel is further than 1/255 from the original at its 256 points.
 * COLORMAP_DIVERGING: differences. A straight path in OKLab (B. Ottosson, 2020) from blue over a neutral grey of
 * lightness 0.96 to orange; lightness falls alike on both sides, so that equal amounts look equally strong, and blue
 * against orange stays apart for colour-blind readers. */
#ifndef SPKV_REPORTS_COLORMAP_H
#define SPKV_REPORTS_COLORMAP_H

#include <stdbool.h>
#include <stdint.h>

enum colormap { COLORMAP_VIRIDIS, COLORMAP_DIVERGING };

struct rgb {
    uint8_t r, g, b;
};

/* The colour at t, clamped to [0, 1]; the neutral centre of COLORMAP_DIVERGING is 0.5. t must not be NaN: what is
 * missing is drawn as colormap_hatch(). */
struct rgb colormap_at(enum colormap map, double t);

/* Missing values: grey with darker diagonal lines, as a function of the pixel (one line every `period` pixels, a
 * third of it wide), so that two neighbouring cells continue each other. */
struct rgb colormap_hatch(unsigned x, unsigned y, unsigned period);
extern const struct rgb colormap_hatch_ground, colormap_hatch_line;

/* Relative luminance in [0, 1] (WCAG 2.1, sRGB). */
double rgb_luminance(struct rgb color);

/* Whether white text on this ground has the better WCAG contrast, (L1 + 0.05) / (L2 + 0.05), than black text. */
bool rgb_wants_white(struct rgb ground);

/* The nearest of the 256 colours of an xterm: its 6 x 6 x 6 cube (16..231) or its grey ramp (232..255). */
int rgb_xterm(struct rgb color);

#endif
