#include "reports/run_sequence.h"

#include "reports/text.h"

/* Rows rise with their number. */
static int find_row(struct profile *p, uint64_t index, size_t *row, struct err *err) {
    size_t low = 0, high = profile_n_sequences(p);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        uint64_t here;
        int rc = profile_read_rows(p, PROFILE_SEQUENCE_INDEX, middle, 1, &here, err);
        if (rc != OK)
            return rc;
        if (here == index) {
            *row = middle;
            return OK;
        }
        if (here < index)
            low = middle + 1;
        else
            high = middle;
    }
    return err_set(err, ERR_INPUT, profile_path(p), "holds no sequence %llu (sequences.csv of a report lists them)",
                   (unsigned long long)index);
}

int run_sequence_find(struct profile *p, const struct run *run, uint64_t index, struct run_sequence *out, struct err *err) {
    const struct profile_meta *m = run->meta;
    struct run_sequence s = {.index = index};
    uint32_t source;
    int rc;
    *out = s;
    if (!profile_has(p, PROFILE_TOKEN_ID))
        return err_set(err, ERR_INPUT, profile_path(p), "recorded no tokens (spkv profile --record tokens,open)");
    if ((rc = find_row(p, index, &s.row, err)) != OK || (rc = profile_token_range(p, s.row, &s.first, &s.n, err)) != OK ||
        (rc = profile_read_rows(p, PROFILE_SEQUENCE_DOCUMENT, s.row, 1, &s.document, err)) != OK ||
        (rc = profile_read_rows(p, PROFILE_SEQUENCE_OFFSET, s.row, 1, &s.offset_tok, err)) != OK ||
        (rc = profile_read_rows(p, PROFILE_SEQUENCE_SOURCE, s.row, 1, &source, err)) != OK)
        return rc;
    s.source = source < m->n_sources ? m->sources[source].name : "?";
    s.n_in_window = s.n < m->window ? s.n : m->window;
    *out = s;
    return OK;
}

int run_sequence_first(struct profile *p, uint64_t *index, struct err *err) {
    *index = 0;
    return profile_n_sequences(p) ? profile_read_rows(p, PROFILE_SEQUENCE_INDEX, 0, 1, index, err) : OK;
}

void run_sequence_put(const struct run_sequence *s, struct str *out) {
    str_printf(out, "Sequence %llu: ", (unsigned long long)s->index);
    text_put_count(out, s->n);
    str_printf(out, " tokens from token %llu of document %llu (", (unsigned long long)s->offset_tok,
               (unsigned long long)s->document);
    run_put_short_name(out, s->source);
    str_puts(out, ").");
}
