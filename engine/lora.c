#include "engine/lora.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

/* "a.b.weight" -> "a.b.lora_X.weight" */
static bool update_name(struct str *out, const char *name, const char *which) {
    static const char suffix[] = ".weight";
    size_t n = strlen(name), n_suffix = sizeof suffix - 1;
    ASSERT(n > n_suffix && strcmp(name + n - n_suffix, suffix) == 0);
    str_append(out, name, n - n_suffix);
    str_printf(out, ".%s.weight", which);
    return !out->failed;
}

/* w (n_rows, n_cols) += scale * b (n_rows, r) a (r, n_cols) */
static void add_product(float *w, const float *a, const float *b, float scale, size_t n_rows, size_t n_cols, size_t r) {
    for (size_t i = 0; i < n_rows; i++)
        for (size_t k = 0; k < r; k++) {
            float factor = scale * b[i * r + k];
            for (size_t j = 0; j < n_cols; j++)
                w[i * n_cols + j] += factor * a[k * n_cols + j];
        }
}

static float *widen(const struct tensor *tensor, struct err *err) {
    float *out = mem_alloc(tensor->n_items, sizeof *out, tensor->name, err);
    if (out)
        tensor_to_f32(tensor, out);
    return out;
}

static int merge(const struct tensor *weight, const struct tensor *a, const struct tensor *b, float scale, float **out,
                 struct err *err) {
    float *wide_a = NULL, *wide_b = NULL, *merged = NULL;
    int rc = tensor_check_finite(a, err);
    if (rc == OK)
        rc = tensor_check_finite(b, err);
    if (rc == OK && (!(merged = widen(weight, err)) || !(wide_a = widen(a, err)) || !(wide_b = widen(b, err))))
        rc = ERR_MEMORY;
    if (rc == OK) {
        add_product(merged, wide_a, wide_b, scale, weight->shape[0], weight->shape[1], a->shape[0]);
        *out = merged;
        merged = NULL;
    }
    free(wide_a);
    free(wide_b);
    free(merged);
    return rc;
}

int lora_merge(const struct checkpoint *checkpoint, const char *name, size_t n_rows, size_t n_cols, float **out,
               struct err *err) {
    const struct predictor_config *config = checkpoint_added(checkpoint);
    struct str name_a = {0}, name_b = {0};
    const struct tensor *weight, *a, *b;
    size_t r = config ? (size_t)config->lora_r : 0;
    int rc = OK;
    *out = NULL;
    if (!update_name(&name_a, name, "lora_A") || !update_name(&name_b, name, "lora_B"))
        rc = err_memory(err, "a tensor name", strlen(name));
    else if (r > 0 && (checkpoint_find(checkpoint, name_a.data) || checkpoint_find(checkpoint, name_b.data))) {
        if ((rc = checkpoint_require(checkpoint, name, 2, n_rows, n_cols, &weight, err)) == OK &&
            (rc = checkpoint_require(checkpoint, name_a.data, 2, r, n_cols, &a, err)) == OK &&
            (rc = checkpoint_require(checkpoint, name_b.data, 2, n_rows, r, &b, err)) == OK)
            rc = merge(weight, a, b, (float)(config->lora_alpha / config->lora_r), out, err);
    }
    str_free(&name_a);
    str_free(&name_b);
    return rc;
}
