#include "reports/run_facts.h"

#include <stdio.h>

void run_facts_add(struct run_facts *f, const char *key, const char *text) {
    ASSERT(f->n < RUN_MAX_FACTS);
    f->facts[f->n++] = (struct picture_fact){key, text};
}

int run_facts_create(const struct run *run, const char *title, const char *description, struct run_facts *f,
                     struct err *err) {
    *f = (struct run_facts){0};
    run_put_corpora(run, &f->corpora);
    run_put_policy(run, &f->policy);
    snprintf(f->sequences, sizeof f->sequences, "%zu", run->statistics.n_sequences);
    snprintf(f->tokens, sizeof f->tokens, "%llu", (unsigned long long)run->statistics.n_tokens);
    snprintf(f->shape, sizeof f->shape, "%zu x %zu", run->statistics.n_layers, run->statistics.n_kv_heads);
    run_facts_add(f, "Title", title);
    run_facts_add(f, "Description", description);
    run_facts_add(f, "Software", "spkv report");
    run_facts_add(f, "Model", run->meta->model_path);
    run_facts_add(f, "Corpus", str_text(&f->corpora));
    run_facts_add(f, "Policy", str_text(&f->policy));
    run_facts_add(f, "Sequences", f->sequences);
    run_facts_add(f, "Tokens", f->tokens);
    run_facts_add(f, "Layers x KV heads", f->shape);
    run_facts_add(f, "Model hash", run->meta->model_hash);
    if (!f->corpora.failed && !f->policy.failed)
        return OK;
    run_facts_free(f);
    return err_memory(err, "facts of a picture", 0);
}

void run_facts_free(struct run_facts *f) {
    str_free(&f->corpora);
    str_free(&f->policy);
}
