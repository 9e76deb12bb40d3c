/* run_facts.h - what a picture of a run carries in its text chunks, so that a copy still says what it shows. */
#ifndef SPKV_REPORTS_RUN_FACTS_H
#define SPKV_REPORTS_RUN_FACTS_H

#include "reports/picture.h"
#include "reports/run.h"

enum { RUN_MAX_FACTS = 16 };

struct run_facts {
    struct picture_fact facts[RUN_MAX_FACTS];
    size_t n;
    struct str corpora, policy;
    char sequences[24], tokens[24], shape[48];
};

/* Title, description, model, corpus, policy, amounts. The texts and the run are borrowed. */
int run_facts_create(const struct run *run, const char *title, const char *description, struct run_facts *out,
                     struct err *err);
void run_facts_add(struct run_facts *facts, const char *key, const char *text); /* borrowed */
void run_facts_free(struct run_facts *facts);

#endif
