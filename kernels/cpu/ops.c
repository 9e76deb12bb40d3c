#include "kernels/ops.h"

#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/device.h"

static int open_best(const struct device_options *options, struct device **out, struct err *err) {
    return cpu_open_isa(options, isa_detect(), out, err);
}

static int open_scalar(const struct device_options *options, struct device **out, struct err *err) {
    return cpu_open_isa(options, ISA_SCALAR, out, err);
}

static int open_avx2(const struct device_options *options, struct device **out, struct err *err) {
    return cpu_open_isa(options, ISA_AVX2, out, err);
}

static int open_avx512(const struct device_options *options, struct device **out, struct err *err) {
    return cpu_open_isa(options, ISA_AVX512, out, err);
}

static int open_amx(const struct device_options *options, struct device **out, struct err *err) {
    return cpu_open_isa(options, ISA_AMX, out, err);
}

static const struct train_ops train_ops = {
    .weight_make = cpu_weight_make,
    .weight_refresh = cpu_weight_refresh,
    .rmsnorm_grad = cpu_rmsnorm_grad,
    .linear_grad = cpu_linear_grad,
    .low_rank = cpu_low_rank,
    .low_rank_grad = cpu_low_rank_grad,
    .act_mul_grad = cpu_act_mul_grad,
    .embed_grad = cpu_embed_grad,
    .predict_grad = cpu_predict_grad,
    .gate_log = cpu_gate_log,
    .gate_log_grad = cpu_gate_log_grad,
    .gate_sample = cpu_gate_sample,
    .attend_seq = cpu_attend_seq,
    .attend_seq_grad = cpu_attend_seq_grad,
    .nll_grad = cpu_nll_grad,
    .adamw = cpu_adamw,
    .norm_sq = cpu_norm_sq,
};

/* clang-format off */
#define CPU_OPS(name_, open_) { \
    .name = name_, .open = open_, .close = cpu_close, \
    .device_dtype = cpu_device_dtype, .device_threads = cpu_device_threads, .device_describe = cpu_device_describe, \
    .mem_alloc = cpu_mem_alloc, .mem_free = cpu_mem_free, .mem_reserve = cpu_mem_reserve, .mem_commit = cpu_mem_commit, \
    .mem_release = cpu_mem_release, .upload = cpu_upload, .download = cpu_download, .copy = cpu_copy, \
    .fill = cpu_fill, .read = cpu_read, .sync = cpu_sync, \
    .weight_prepare = cpu_weight_prepare, .weight_free = cpu_weight_free, .weight_bytes = cpu_weight_bytes, \
    .embed = cpu_embed, .rmsnorm = cpu_rmsnorm, .linear = cpu_linear, .add = cpu_add, .act_mul = cpu_act_mul, \
    .rope = cpu_rope, .gather = cpu_gather, \
    .predict = cpu_predict, .score_const = cpu_score_const, .score_random = cpu_score_random, \
    .score_key_norm = cpu_score_key_norm, .output_norm = cpu_output_norm, .gate = cpu_gate, \
    .attend_cache = cpu_attend_cache, .attend_stats = cpu_attend_stats, .kv_append = cpu_kv_append, \
    .kv_prune = cpu_kv_prune, .kv_evict = cpu_kv_evict, .kv_reset = cpu_kv_reset, .kv_copy = cpu_kv_copy, \
    .kv_read = cpu_kv_read, \
    .query_sums = cpu_query_sums, .column_score = cpu_column_score, .expected_score = cpu_expected_score, \
    .select_top = cpu_select_top, \
    .nll = cpu_nll, .logits = cpu_logits, .sample = cpu_sample, .train = &train_ops, \
}
/* clang-format on */

const struct ops *ops_cpu(void) {
    static const struct ops ops = CPU_OPS("cpu", open_best);
    return &ops;
}

const struct ops *ops_cpu_variant(const char *isa) {
    static const char *const names[] = {"scalar", "avx2", "avx512", "amx"};
    static const struct ops variants[] = {
        CPU_OPS("cpu-scalar", open_scalar),
        CPU_OPS("cpu-avx2", open_avx2),
        CPU_OPS("cpu-avx512", open_avx512),
        CPU_OPS("cpu-amx", open_amx),
    };
    for (int i = ISA_SCALAR; i <= (int)isa_detect(); i++)
        if (strcmp(isa, names[i]) == 0)
            return &variants[i];
    return NULL;
}
