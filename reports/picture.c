#include "reports/picture.h"

#include <png.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/mem.h"
#include "reports/text.h"

enum { DOTS_PER_METRE = 7559 }; /* 192 dpi */

struct picture {
    struct file_out out;
    char *path;
    png_structp png;
    png_infop info;
    struct err why; /* what libpng said */
    size_t rows_left;
};

static bool is_ascii(const char *text) {
    for (; *text; text++)
        if ((unsigned char)*text >= 0x80)
            return false;
    return true;
}

/* libpng takes char * but does not write through it. */
static char *borrow(const char *text) {
    return (char *)(uintptr_t)text;
}

static void set_text_chunk(png_structp png, png_infop info, const struct picture_fact *fact) {
    struct str clean = {0};
    text_put_clean(&clean, fact->text);
    png_text chunk = {.compression = PNG_TEXT_COMPRESSION_NONE,
                      .key = borrow(fact->key),
                      .text = borrow(str_text(&clean)),
                      .text_length = clean.len};
    if (!is_ascii(chunk.text)) {
        chunk.compression = PNG_ITXT_COMPRESSION_NONE;
        chunk.itxt_length = clean.len;
        chunk.text_length = 0;
    }
    png_set_text(png, info, &chunk, 1); /* copies */
    str_free(&clean);
}

/* libpng reports failure by jumping back into the function that called it. */
static void on_png_error(png_structp png, png_const_charp message) {
    err_set(png_get_error_ptr(png), ERR_IO, "libpng", "%s", message);
    png_longjmp(png, 1);
}

static void on_png_warning(png_structp png, png_const_charp message) {
    (void)png, (void)message; /* a doubtful text chunk is no reason to print from a library */
}

static int failed(struct picture *p, struct err *err) {
    return err_set(err, ERR_IO, p->path, "cannot write the picture: %s", p->why.message);
}

static int write_head(struct picture *p, size_t width, size_t height, const struct picture_fact *facts, size_t n_facts,
                      struct err *err) {
    if (setjmp(png_jmpbuf(p->png)))
        return failed(p, err);
    png_init_io(p->png, p->out.stream);
    png_set_user_limits(p->png, PICTURE_MAX_SIDE, PICTURE_MAX_SIDE);
    png_set_IHDR(p->png, p->info, (png_uint_32)width, (png_uint_32)height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_sRGB(p->png, p->info, PNG_sRGB_INTENT_PERCEPTUAL);
    png_set_pHYs(p->png, p->info, DOTS_PER_METRE, DOTS_PER_METRE, PNG_RESOLUTION_METER);
    png_set_filter(p->png, 0, PNG_FILTER_NONE); /* flat colours compress best as they are */
    png_set_compression_level(p->png, 3);       /* a third of the time of 6 */
    for (size_t i = 0; i < n_facts; i++)
        set_text_chunk(p->png, p->info, &facts[i]);
    png_write_info(p->png, p->info);
    return OK;
}

int picture_open(const char *path, size_t width, size_t height, const struct picture_fact *facts, size_t n_facts,
                 struct picture **out, struct err *err) {
    struct picture *p = mem_alloc(1, sizeof *p, "a picture", err);
    int rc = ERR_MEMORY;
    ASSERT(width > 0 && width <= PICTURE_MAX_SIDE && height > 0 && height <= PICTURE_MAX_SIDE);
    *out = NULL;
    if (!p)
        return rc;
    p->rows_left = height;
    if (!(p->path = mem_strdup(path, err)) || (rc = file_out_open(&p->out, path, err)) != OK)
        goto out;
    if (!(p->png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &p->why, on_png_error, on_png_warning)) ||
        !(p->info = png_create_info_struct(p->png))) {
        rc = err_memory(err, "a picture", 0);
        goto out;
    }
    rc = write_head(p, width, height, facts, n_facts, err);
out:
    if (rc == OK)
        *out = p;
    else
        picture_free(p);
    return rc;
}

int picture_put_row(struct picture *p, const unsigned char *rgb, struct err *err) {
    ASSERT(p->rows_left > 0);
    if (setjmp(png_jmpbuf(p->png)))
        return failed(p, err);
    png_write_row(p->png, rgb);
    p->rows_left--;
    return OK;
}

int picture_close(struct picture *p, struct err *err) {
    ASSERT(p->rows_left == 0);
    if (setjmp(png_jmpbuf(p->png)))
        return failed(p, err);
    png_write_end(p->png, p->info);
    return file_out_commit(&p->out, err);
}

void picture_free(struct picture *p) {
    if (!p)
        return;
    png_destroy_write_struct(&p->png, &p->info);
    file_out_discard(&p->out);
    free(p->path);
    free(p);
}
