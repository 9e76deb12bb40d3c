/* Fuzz target: layout.json. What is accepted must survive being used, written and read again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void use(struct layout *layout) {
    size_t n = (size_t)layout->n_layers * layout->n_kv_heads;
    double *value = calloc(n, sizeof *value);
    struct err err = {0};
    for (size_t i = 0; value && i < n; i++)
        value[i] = (double)(i % 7);
    double coverage = value ? layout_coverage(layout, value) : 0;
    ASSERT(!(coverage < 0) && !(coverage > 1 + 1e-9));
    double fraction = layout_kv_fraction(layout, 4096);
    ASSERT(!(fraction < 0) && !(fraction > 1 + 1e-9));
    ASSERT(layout_n_global(layout) <= layout_n_eligible(layout) && layout_n_eligible(layout) <= n);
    ASSERT(layout_kv_bytes(layout, 1 << 20, 64, 2, NULL) >= 0 && layout_strategy(layout));
    layout_check_model(layout, layout->n_layers, layout->n_kv_heads, NULL, "", "fuzz", &err);
    free(value);
}

static void again(const struct layout *layout) {
    struct layout *second = NULL;
    struct err err = {0};
    json_t *root = layout_json(layout);
    char *text = root ? json_dumps(root, 0) : NULL;
    ASSERT(text);
    ASSERT(layout_parse(text, strlen(text), "again", &second, &err) == OK);
    ASSERT(memcmp(layout->heads, second->heads, (size_t)layout->n_layers * layout->n_kv_heads) == 0);
    layout_free(second);
    free(text);
    json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    struct layout *layout = NULL;
    struct err err = {0};
    int rc = layout_parse((const char *)data, n, "fuzz", &layout, &err);
    ASSERT(rc == OK ? layout && err.code == OK : !layout && err.code == rc && err.message[0]);
    if (layout) {
        use(layout);
        again(layout);
    }
    layout_free(layout);
    return 0;
}
