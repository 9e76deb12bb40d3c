#include "train/oracle_target.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "engine/session.h"

enum { CHUNK = 512 };
static const float LEAST = 1e-6f;

struct oracle_target {
    const struct model *model;
    struct session *session;
};

int oracle_target_create(const struct model *model, const struct policy *full, int max_len, struct oracle_target **out,
                         struct err *err) {
    struct oracle_target *o = mem_alloc(1, sizeof *o, "an oracle", err);
    size_t max_rows = max_len < CHUNK ? (size_t)max_len : CHUNK;
    struct session_options options = {.n_slots = 1, .max_len = max_len, .max_rows = max_rows, .policy = full,
                                      .future_attention = true};
    *out = NULL;
    if (!o)
        return ERR_MEMORY;
    o->model = model;
    int rc = session_create(model, &options, &o->session, err);
    if (rc == OK)
        *out = o;
    else
        oracle_target_free(o);
    return rc;
}

void oracle_target_free(struct oracle_target *o) {
    if (!o)
        return;
    session_free(o->session);
    free(o);
}

/* fmaxf() would turn NaN into LEAST. */
static float log_of(float weight) {
    return logf(weight < LEAST ? LEAST : weight);
}

int oracle_target_fill(struct oracle_target *o, const struct micro_batch *batch, float *log_target, struct err *err) {
    size_t kv = (size_t)o->model->config->n_kv_heads, n_rows = (size_t)batch->row_splits[batch->n_seq];
    const float *max, *mean;
    int rc = OK;
    for (int i = 0; i < batch->n_seq && rc == OK; i++) {
        size_t first = (size_t)batch->row_splits[i], n = (size_t)batch->row_splits[i + 1] - first;
        session_reset(o->session, 0, batch->sequence_id[i]);
        if ((rc = session_prefill(o->session, 0, batch->ids + first, n, CHUNK, err)) != OK ||
            (rc = session_future(o->session, 0, &max, &mean, err)) != OK)
            break;
        for (int l = 0; l < o->model->config->n_layers; l++)
            for (size_t j = 0; j < n * kv; j++)
                log_target[((size_t)l * n_rows + first) * kv + j] = log_of(max[(size_t)l * n * kv + j]);
    }
    return rc;
}
