/* keep_map.h - the keep map of a sequence: one row of cells a token, one column a (layer, KV head), layers from the left,
 * tokens from the top. A cell is a whole number of pixels and nothing is left out or averaged, so that the picture can be
 * read back; it is written row by row, whatever its height. Beside it the same numbers as compressed CSV. */
#ifndef SPKV_REPORTS_KEEP_MAP_H
#define SPKV_REPORTS_KEEP_MAP_H

#include <stdbool.h>
#include <stddef.h>

#include "reports/colormap.h"
#include "reports/run.h"
#include "reports/run_sequence.h"

/* In pixels from the top left corner. The cell of token t and head k of layer l begins at x = map_x + (l * n_kv_heads + k) *
 * cell_w + l * layer_gap, y = map_y + t * cell_h. */
struct keep_map_geometry {
    size_t width, height;
    size_t map_x, map_y, map_w;
    size_t cell_w, cell_h, layer_gap;
};

enum { KEEP_MAP_MAX_HEADS = 16384 };

/* Whether the run has gates or scores of tokens and not too many heads. */
bool keep_map_possible(const struct profile *profile);

/* Writes NAME.png, NAME.csv.gz (columns position, token_id, then one a head, empty = missing) and NAME.gp, which draws the
 * numbers with gnuplot, below `dir`. geometry: NULL or where the cells are. */
int keep_map_write(struct profile *profile, const struct run *run, const struct run_sequence *sequence, const char *dir,
                   const char *name, struct keep_map_geometry *geometry, struct err *err);

/* The colours of an open and a closed gate; utilities have those of COLORMAP_VIRIDIS, missing values the hatch. */
extern const struct rgb keep_map_open, keep_map_closed;

#endif
