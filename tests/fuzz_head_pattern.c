/* Fuzz target: head patterns of other tools, in the form that is guessed and in each form by name. What is accepted must be
 * a matrix of shares that makes a layout. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/head_pattern.h"
#include "analyze/layer_types.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void use(const struct head_pattern *p) {
    struct layout *layout = NULL, *layers = NULL;
    struct layer_rounding rounding;
    struct err err = {0};
    size_t n_heads = (size_t)p->n_layers * p->n_kv_heads, n_global = head_pattern_count(p, 0.5, NULL);
    ASSERT(p->n_layers > 0 && p->n_kv_heads > 0 && p->n_clipped <= n_heads && p->n_unknown <= p->n_layers);
    for (size_t i = 0; i < n_heads; i++)
        ASSERT(p->value[i] >= 0 && p->value[i] <= 1);
    ASSERT(head_pattern_layout(p, n_global, 64, 0, NULL, &layout, &err) == OK);
    for (size_t i = 0; i < n_heads; i++)
        ASSERT((layout->heads[i] == HEAD_GLOBAL) == (p->value[i] >= 0.5));
    ASSERT(layer_types_round(layout, p->value, &layers, &rounding, &err) == OK);
    ASSERT(layout_n_global(layers) == rounding.n_full * p->n_kv_heads);
    layout_free(layers);
    layout_free(layout);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    for (int format = 0; format <= HEAD_PATTERN_N_FORMATS; format++) {
        struct head_pattern p;
        struct err err = {0};
        int rc = head_pattern_parse((const char *)data, n, "fuzz", (enum head_pattern_format)format, n % 3, &p, &err);
        ASSERT(rc == OK ? p.value && err.code == OK : !p.value && err.code == rc && err.message[0]);
        if (rc == OK)
            use(&p);
        head_pattern_free(&p);
    }
    return 0;
}
