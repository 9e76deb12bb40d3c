/* page_assets.h - the fixed texts of the page: internal to page.c. */
#ifndef SPKV_REPORTS_PAGE_ASSETS_H
#define SPKV_REPORTS_PAGE_ASSETS_H

extern const char page_policy[];   /* the Content-Security-Policy */
extern const char page_glossary[]; /* HTML: what the words mean */

#endif
