#include "analyze/token_values.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { BLOCK_TOKENS = 1024, BLOCK_VALUES = 1 << 20, MISSING_U8 = 255, U8_ONE = 254 };

enum token_quantity token_quantity_of(const struct profile *p) {
    if (profile_has(p, PROFILE_TOKEN_OPEN))
        return TOKEN_OPEN;
    return profile_has(p, PROFILE_TOKEN_UTILITY) && profile_meta(p)->score == PROFILE_SCORE_SIGMOID ? TOKEN_UTILITY
                                                                                                     : TOKEN_NOTHING;
}

static enum profile_field field_of(const struct token_values *v) {
    return v->quantity == TOKEN_OPEN ? PROFILE_TOKEN_OPEN : PROFILE_TOKEN_UTILITY;
}

int token_values_open(struct profile *profile, struct token_values *out, struct err *err) {
    struct token_values v = {.profile = profile, .quantity = token_quantity_of(profile)};
    size_t n;
    *out = (struct token_values){0};
    ASSERT(v.quantity != TOKEN_NOTHING);
    v.n_heads = profile_row_items(profile, field_of(&v));
    v.cap = v.n_heads < BLOCK_VALUES / BLOCK_TOKENS ? BLOCK_TOKENS : BLOCK_VALUES / v.n_heads + 1;
    if (!size_mul(v.cap, v.n_heads, &n) || !(v.id = mem_alloc(v.cap, sizeof *v.id, "tokens", err)) ||
        !(v.nll = mem_alloc(v.cap, sizeof *v.nll, "tokens", err)) ||
        !(v.value = mem_alloc(n, sizeof *v.value, "values of tokens", err)) ||
        !(v.raw = mem_alloc(n, profile_item_bytes(profile, field_of(&v)), "values of tokens", err))) {
        token_values_close(&v);
        return err_memory(err, "values of tokens", 0);
    }
    *out = v;
    return OK;
}

void token_values_close(struct token_values *v) {
    free(v->id);
    free(v->nll);
    free(v->value);
    free(v->raw);
    *v = (struct token_values){0};
}

static void widen_u8(const uint8_t *raw, size_t n, float one, float *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = raw[i] == MISSING_U8 ? NAN : (float)raw[i] / one;
}

int token_values_read(struct token_values *v, uint64_t first, size_t n, struct err *err) {
    size_t n_values = n * v->n_heads;
    int rc;
    ASSERT(n <= v->cap);
    if ((rc = profile_read_rows(v->profile, PROFILE_TOKEN_ID, first, n, v->id, err)) != OK ||
        (rc = profile_read_rows(v->profile, PROFILE_TOKEN_NLL, first, n, v->nll, err)) != OK ||
        (rc = profile_read_rows(v->profile, field_of(v), first, n, v->raw, err)) != OK)
        return rc;
    if (profile_item_bytes(v->profile, field_of(v)) == 1)
        widen_u8(v->raw, n_values, v->quantity == TOKEN_OPEN ? 1 : U8_ONE, v->value);
    else
        memcpy(v->value, v->raw, n_values * sizeof *v->value);
    v->first = first;
    v->n = n;
    return OK;
}

double token_values_sum(const struct token_values *v, size_t i, size_t *n_known) {
    const float *value = v->value + i * v->n_heads;
    double sum = 0;
    *n_known = 0;
    for (size_t h = 0; h < v->n_heads; h++)
        if (!isnan(value[h])) {
            sum += (double)value[h];
            ++*n_known;
        }
    return sum;
}
