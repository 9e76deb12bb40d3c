#include <stdlib.h>

#include "analyze/profile.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cli/verify.h"
#include "engine/session.h"

enum { N_RUNS = 3, N_STEPS = 16 };

/* The first tokens of a run that recorded them, at most n. */
static int read_tokens(const char *path, size_t *n, int32_t *tokens, struct err *err) {
    struct profile *profile;
    int rc = profile_open(path, &profile, err);
    if (rc != OK)
        return rc;
    if (*n > profile_n_tokens(profile))
        *n = (size_t)profile_n_tokens(profile);
    rc = profile_read_rows(profile, PROFILE_TOKEN_ID, 0, *n, tokens, err);
    profile_close(profile);
    return rc;
}

static int decode_steps(const struct loaded *l, struct session *s, double *seconds, struct err *err) {
    uint64_t start = clock_us();
    int rc = OK, slot = 0, one = 1;
    for (int i = 0; i < N_STEPS && rc == OK; i++) {
        int32_t id;
        const int32_t *tokens = &id;
        rc = session_sample(s, &(struct sampling){.top_p = 1}, &id, err);
        if (rc == OK)
            rc = session_feed(s, &(struct feed){1, &slot, &tokens, &one}, err);
    }
    if (rc == OK)
        rc = l->ops->sync(l->dev, err);
    *seconds = (double)(clock_us() - start) * 1e-6 / N_STEPS;
    return rc;
}

static double middle(double a, double b, double c) {
    return a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b);
}

int decode_speed(const struct loaded *l, const struct policy *policy, const char *run, int context, int chunk,
                 double *tok_per_s, struct err *err) {
    int room = (N_RUNS + 1) * N_STEPS, limit = l->model->config->max_positions - room;
    size_t n = (size_t)(context < limit ? context : limit > 1 ? limit : 1);
    int32_t *tokens = mem_alloc(n, sizeof *tokens, "tokens", err);
    struct session *s = NULL;
    double seconds[N_RUNS + 1];
    int rc = tokens ? read_tokens(run, &n, tokens, err) : ERR_MEMORY;
    struct session_options options = {.n_slots = 1, .max_len = (int)n + room, .max_rows = (size_t)chunk, .policy = policy};
    if (rc == OK && options.max_len > l->model->config->max_positions)
        rc = err_set(err, ERR_USAGE, "--decode", "the model has %d positions, which leaves no room to time decoding",
                     l->model->config->max_positions);
    if (rc == OK)
        rc = session_create(l->model, &options, &s, err);
    if (rc == OK)
        rc = session_prefill(s, 0, tokens, n, (size_t)chunk, err);
    for (int i = 0; i <= N_RUNS && rc == OK; i++) /* the first one warms up */
        rc = decode_steps(l, s, &seconds[i], err);
    if (rc == OK)
        *tok_per_s = 1 / middle(seconds[1], seconds[2], seconds[3]);
    session_free(s);
    free(tokens);
    return rc;
}
