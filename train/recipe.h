/* recipe.h - the paper's recipe of training (method.md section 6), and where a schedule departs from it. */
#ifndef SPKV_TRAIN_RECIPE_H
#define SPKV_TRAIN_RECIPE_H

#include <jansson.h>
#include <stdint.h>

#include "train/schedule.h"

/* One sentence a deviation, an array of strings: "window 64 (paper: 128)". NULL when memory runs out. Release with
 * json_decref(). */
json_t *recipe_deviations(const struct schedule *s, uint64_t n_tok);

#endif
