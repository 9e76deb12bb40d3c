/* page.h - index.html: one self-contained file that asks nobody for anything. A strict Content-Security-Policy allows no
 * request, only the page's own style sheet and script (by their hashes) and images inside the page. Light and dark follow
 * the reader's setting, until a button says otherwise; without script everything is there, only the tables cannot be sorted
 * and values show under the pointer alone. Every string from outside is escaped.
 *
 * A page is built piece by piece into a struct str, whose errors are sticky: begin, any pieces, end. */
#ifndef SPKV_REPORTS_PAGE_H
#define SPKV_REPORTS_PAGE_H

#include <stddef.h>

#include "base/err.h"
#include "base/str.h"
#include "reports/figure.h"
#include "reports/heatmap.h"
#include "reports/run.h"
#include "reports/table.h"

/* The first lines of every page; a directory with such an index.html is one of ours. */
#define PAGE_MARK                                                                                                           \
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"generator\" content=\"spkv "       \
    "report\">\n"

void page_begin(struct str *page, const char *title, const char *lead);

/* A section of one run: heading, the numbers in front, the facts of the run. */
void page_put_run(struct str *page, const struct run *run);

/* A section of one training run: heading and the numbers it ended with. */
void page_put_training(struct str *page, const char *summary);

void page_put_section(struct str *page, const char *heading); /* another section */
void page_put_heading(struct str *page, const char *heading);
void page_put_note(struct str *page, const char *text);
void page_begin_fold(struct str *page, const char *summary); /* what follows is folded away, until page_end_fold() */
void page_end_fold(struct str *page);

/* What follows may be wider than the page: it scrolls in a region of its own, by keyboard too, until page_end_scroll(). Any
 * element in it with a title (an attribute in HTML, a child in SVG) says it under the pointer and, arrow keys going from one
 * to the next, under the focus. Own HTML goes in between as it is: its maker escapes (text_put_clean_html()), and the policy
 * drops style attributes, so that colours are classes of page.css. */
void page_begin_scroll(struct str *page, const char *label);
void page_end_scroll(struct str *page);

/* A heatmap as inline SVG, its values under pointer and focus. */
int page_put_heatmap(struct str *page, const struct heatmap *map, struct err *err);

/* A figure: `svg` is the text gnuplot made, shown as an image, or NULL when it was not drawn, and then `notice` says why. */
void page_put_figure(struct str *page, const struct figure *figure, const struct str *svg, const char *notice);

/* A table; long ones are folded. `file` is the CSV beside the page that has all its columns. */
void page_put_table(struct str *page, const struct table *table, const char *caption, const char *file);

/* What the words mean, and the end. */
void page_end(struct str *page, const char *version);

/* The style sheet and script (page.css, page.js), whose hashes stand in the page; for tests. */
extern const char page_style[], page_script[];

#endif
