/* Fuzz target: the CSV of `spkv bench` that a decode-time budget is fitted to. What is accepted must be a rising line through
 * rows that were there. The first byte chooses the batch. */
#include <math.h>
#include <stdint.h>

#include "analyze/cost_model.h"
#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    struct cost_model model;
    struct err err = {0};
    uint32_t batch = n ? 1u << (data[0] % 5) : 1;
    int rc = cost_model_parse((const char *)data, n, "fuzz", batch, &model, &err);
    ASSERT(rc == OK ? err.code == OK : rc == ERR_INPUT && err.code == rc && err.message[0]);
    if (rc == OK) {
        ASSERT(model.batch == batch && model.n_rows >= 2 && model.n_rows <= n);
        ASSERT(model.per_byte_s > 0 && isfinite(model.base_s) && isfinite(model.per_byte_s) && model.largest_bytes > 0);
        ASSERT(cost_model_step(&model, 2) >= cost_model_step(&model, 1));
    }
    return 0;
}
