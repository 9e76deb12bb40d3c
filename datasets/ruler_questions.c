/* Questions about some of many documents. */
#include <stdlib.h>

#include "base/mem.h"
#include "base/rng.h"
#include "datasets/ruler_internal.h"

static const char INSTRUCTION[] =
    "Answer the question based on the given documents. Only give me the answer and do not output any other words.";

static bool holds(const size_t *list, size_t n, size_t value) {
    for (size_t i = 0; i < n; i++)
        if (list[i] == value)
            return true;
    return false;
}

/* n documents: the question's own, then others of the same article, then any, each in random order. */
static void choose_documents(const struct ruler_plan *plan, const struct document_question *q, struct draws *d, size_t n,
                             size_t *out) {
    size_t n_all = documents_n(plan->documents), len = q->n_own;
    uint64_t order = (uint64_t)draw(d, (size_t)1 << 31);
    for (size_t i = 0; i < q->n_own; i++)
        out[i] = q->own[i];
    for (size_t i = 0; i < q->n_near && len < n; i++)
        out[len++] = q->near[rng_permute(order, 0, q->n_near, i)];
    for (size_t i = 0; i < n_all && len < n; i++) {
        size_t document = rng_permute(order, 1, n_all, i);
        if (!holds(q->own, q->n_own, document) && !holds(q->near, q->n_near, document))
            out[len++] = document;
    }
    ASSERT(len == n);
    ruler_shuffle(d, out, n);
}

void ruler_build_question(const struct ruler_plan *plan, size_t n_units, struct ruler_sample *out) {
    struct document_question q = documents_question(plan->documents, plan->question);
    struct draws d = plan->draws;
    struct str *in = &out->input;
    json_t *answer;
    size_t i, *chosen = mem_alloc(n_units, sizeof *chosen, "documents", NULL);
    if (!chosen) {
        in->failed = true;
        return;
    }
    choose_documents(plan, &q, &d, n_units, chosen);
    str_printf(in, "%s\n\nThe following are given documents.\n\n", INSTRUCTION);
    for (i = 0; i < n_units; i++)
        str_printf(in, "Document %zu:\n%s\n\n", i + 1, documents_text(plan->documents, chosen[i]));
    str_printf(in, "%s\n\nQuestion: %s", INSTRUCTION, q.text);
    str_puts(&out->prefix, " Answer:");
    json_array_foreach(q.answers, i, answer)
        ruler_put_output(out, json_string_value(answer));
    free(chosen);
}

size_t ruler_least_documents(const struct ruler_plan *plan) {
    return documents_question(plan->documents, plan->question).n_own;
}

size_t ruler_most_documents(const struct ruler_plan *plan) {
    return documents_n(plan->documents);
}
