/* picture.h - a PNG file written row by row with libpng: 8-bit RGB, 192 dpi, facts as text chunks. Memory is one row,
 * however high the picture. Atomic: the file has its name when all rows are there. One thread per picture. */
#ifndef SPKV_REPORTS_PICTURE_H
#define SPKV_REPORTS_PICTURE_H

#include <stddef.h>

#include "base/err.h"

/* A fact kept in a PNG as a text chunk: tEXt, or iTXt where the text is not ASCII. */
struct picture_fact {
    const char *key; /* 1 to 79 printable ASCII characters */
    const char *text;
};

enum { PICTURE_MAX_SIDE = 0x7fffffff }; /* of the PNG format; many readers stop at 1,000,000 */

struct picture;

/* Begins a picture of width x height pixels. */
int picture_open(const char *path, size_t width, size_t height, const struct picture_fact *facts, size_t n_facts,
                 struct picture **out, struct err *err);

/* The next row, 3 * width bytes. */
int picture_put_row(struct picture *picture, const unsigned char *rgb, struct err *err);

/* All rows are written: the file takes its name. */
int picture_close(struct picture *picture, struct err *err);

/* Releases it; what was not closed leaves no file. Legal on NULL. */
void picture_free(struct picture *picture);

#endif
