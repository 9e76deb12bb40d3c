#include "engine/safetensors_write.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

enum { DATA_ALIGNMENT = 64, PREFIX_BYTES = 8, BLOCK_ITEMS = 4096 };

static void put_quoted(struct str *s, const char *text) {
    json_t *value = json_string(text);
    char *quoted = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII) : NULL;
    if (quoted)
        str_puts(s, quoted);
    else
        s->failed = true;
    free(quoted);
    json_decref(value);
}

static size_t n_items(const struct tensor_plan *plan) {
    size_t n = 1;
    for (int i = 0; i < plan->n_dims; i++)
        ASSERT(size_mul(n, plan->shape[i], &n));
    return n;
}

static void put_tensor(struct str *s, const struct tensor_plan *plan, size_t *offset) {
    size_t n_bytes, end;
    ASSERT((plan->dtype == DTYPE_F32 || plan->dtype == DTYPE_BF16) && plan->n_dims <= MAX_TENSOR_DIMS);
    ASSERT(size_mul(n_items(plan), dtype_size(plan->dtype), &n_bytes) && size_add(*offset, n_bytes, &end));
    put_quoted(s, plan->name);
    str_printf(s, ":{\"dtype\":\"%s\",\"shape\":[", plan->dtype == DTYPE_F32 ? "F32" : "BF16");
    for (int i = 0; i < plan->n_dims; i++)
        str_printf(s, "%s%zu", i ? "," : "", plan->shape[i]);
    str_printf(s, "],\"data_offsets\":[%zu,%zu]}", *offset, end);
    *offset = end;
}

static void put_header(struct str *s, const struct tensor_plan *plans, size_t n, const struct tensor_note *notes,
                       size_t n_notes) {
    size_t offset = 0;
    str_putc(s, '{');
    for (size_t i = 0; i < n_notes; i++) {
        str_puts(s, i ? "," : "\"__metadata__\":{");
        put_quoted(s, notes[i].key);
        str_putc(s, ':');
        put_quoted(s, notes[i].value);
    }
    if (n_notes > 0)
        str_puts(s, n > 0 ? "}," : "}");
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            str_putc(s, ',');
        put_tensor(s, &plans[i], &offset);
    }
    str_putc(s, '}');
    while (!s->failed && (PREFIX_BYTES + s->len) % DATA_ALIGNMENT != 0)
        str_putc(s, ' ');
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int refuse_repeated(const char *path, const struct tensor_plan *plans, size_t n, struct err *err) {
    const char **names = mem_alloc(n, sizeof *names, "tensor names", err);
    int rc = names ? OK : ERR_MEMORY;
    for (size_t i = 0; names && i < n; i++)
        names[i] = plans[i].name;
    if (names)
        qsort(names, n, sizeof *names, compare_names);
    for (size_t i = 1; rc == OK && i < n; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            rc = err_set(err, ERR_INPUT, path, "tensor %s would be written twice", names[i]);
    free(names);
    return rc;
}

/* The next tensor that has items. */
static void begin_tensor(struct safetensors_writer *w) {
    while (w->current < w->n && (w->n_left = n_items(&w->plans[w->current])) == 0)
        w->current++;
}

static int write_bytes(struct safetensors_writer *w, const void *data, size_t n, struct err *err) {
    errno = 0;
    if (fwrite(data, 1, n, w->out.stream) == n)
        return OK;
    return err_errno(err, errno ? errno : EIO, w->out.path, "cannot write");
}

int safetensors_writer_open(const char *path, const struct tensor_plan *plans, size_t n, const struct tensor_note *notes,
                            size_t n_notes, struct safetensors_writer *out, struct err *err) {
    struct safetensors_writer w = {.plans = plans, .n = n};
    struct str header = {0};
    unsigned char prefix[PREFIX_BYTES];
    int rc = refuse_repeated(path, plans, n, err);
    *out = (struct safetensors_writer){0};
    if (rc != OK)
        return rc;
    put_header(&header, plans, n, notes, n_notes);
    for (size_t i = 0; i < PREFIX_BYTES; i++)
        prefix[i] = (unsigned char)((uint64_t)header.len >> 8 * i);
    if (header.failed)
        rc = err_memory(err, "the header of a safetensors file", header.len);
    if (rc == OK && (rc = file_out_open(&w.out, path, err)) == OK)
        rc = write_bytes(&w, prefix, sizeof prefix, err);
    if (rc == OK)
        rc = write_bytes(&w, header.data, header.len, err);
    str_free(&header);
    begin_tensor(&w);
    if (rc == OK)
        *out = w;
    else
        safetensors_writer_discard(&w);
    return rc;
}

static int put_bf16(struct safetensors_writer *w, const float *values, size_t n, struct err *err) {
    uint16_t block[BLOCK_ITEMS];
    int rc = OK;
    for (size_t i = 0; rc == OK && i < n; i += BLOCK_ITEMS) {
        size_t count = n - i < BLOCK_ITEMS ? n - i : BLOCK_ITEMS;
        for (size_t k = 0; k < count; k++)
            block[k] = f32_to_bf16(values[i + k]);
        rc = write_bytes(w, block, count * sizeof *block, err);
    }
    return rc;
}

int safetensors_writer_put(struct safetensors_writer *w, const float *values, size_t n, struct err *err) {
    if (n == 0)
        return OK;
    ASSERT(w->current < w->n && n <= w->n_left);
    int rc = w->plans[w->current].dtype == DTYPE_F32 ? write_bytes(w, values, n * sizeof *values, err)
                                                     : put_bf16(w, values, n, err);
    w->n_left -= n;
    if (w->n_left == 0) {
        w->current++;
        begin_tensor(w);
    }
    return rc;
}

int safetensors_writer_commit(struct safetensors_writer *w, struct err *err) {
    ASSERT(w->current == w->n);
    int rc = file_out_commit(&w->out, err);
    *w = (struct safetensors_writer){0};
    return rc;
}

void safetensors_writer_discard(struct safetensors_writer *w) {
    file_out_discard(&w->out);
    *w = (struct safetensors_writer){0};
}
