#include "engine/generation.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

bool is_end_of_text(const struct model_config *c, int32_t id) {
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos_id[i] == id)
            return true;
    return false;
}

/* Where the first stop text begins, or the whole length. */
static size_t find_stop(const struct generation_options *o, const char *text, size_t n) {
    for (size_t i = 0; i < o->n_stops; i++) {
        const char *hit = o->stops[i][0] ? strstr(text, o->stops[i]) : NULL;
        if (hit && (size_t)(hit - text) < n)
            n = (size_t)(hit - text);
    }
    return n;
}

int generate_text(struct session *s, int slot, uint64_t sequence_id, const struct model *model,
                  const struct tokenizer *tokenizer, const int32_t *prompt, size_t n, const struct generation_options *o,
                  struct str *text, size_t *n_new, struct err *err) {
    struct token_list ids = {0};
    struct str decoded = {0};
    size_t end = 0;
    int one = 1;
    *n_new = 0;
    session_reset(s, slot, sequence_id);
    int rc = session_prefill(s, slot, prompt, n, o->chunk, err);
    session_end_prefill(s, slot);
    while (rc == OK && *n_new < o->max_new) {
        int32_t id;
        const int32_t *piece = &id;
        if ((rc = session_sample(s, &o->sampling, &id, err)) != OK || is_end_of_text(model->config, id) ||
            (rc = mem_grow(&ids.data, &ids.cap, ids.len + 1, sizeof id, "tokens", err)) != OK)
            break;
        ids.data[ids.len++] = id;
        ++*n_new;
        str_clear(&decoded); /* anew from the first one on, which keeps joins between tokens right */
        tokenizer_decode(tokenizer, ids.data, ids.len, true, &decoded);
        end = find_stop(o, str_text(&decoded), decoded.len);
        if (end < decoded.len || *n_new == o->max_new || session_room(s, slot) == 0 ||
            (o->is_done && o->is_done(o->self, str_text(&decoded), decoded.len)))
            break;
        rc = session_feed(s, &(struct feed){1, &slot, &piece, &one}, err);
    }
    if (rc == OK)
        str_append(text, str_text(&decoded), end);
    if (rc == OK && (decoded.failed || text->failed))
        rc = err_memory(err, "a text", decoded.len);
    str_free(&decoded);
    free(ids.data);
    return rc;
}
