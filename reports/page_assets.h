/* page_assets.h - the fixed texts of the page: internal to page.c. */
#ifndef SPKV_REPORTS_PAGE_ASSETS_H
#define SPKV_REPORTS_PAGE_ASSETS_H

struct page_word {
    const char *word, *meaning; /* HTML */
};

extern const char page_policy[];              /* the Content-Security-Policy */
extern const struct page_word page_words[];   /* ends with a NULL word */
extern const char page_glossary_lead[], page_glossary_end[]; /* HTML paragraphs around them */

#endif
