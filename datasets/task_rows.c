#include "datasets/task_rows.h"

#include <errno.h>

#include "base/rng.h"

unsigned draw(struct draws *d, size_t n) {
    struct rng_block counter = {{(uint32_t)d->row, (uint32_t)(d->row >> 32), d->task, d->n++}};
    return (unsigned)((uint64_t)rng_philox(d->seed, counter).v[0] * n >> 32);
}

int task_row_dump(FILE *stream, json_t *row, struct err *err) {
    if (!row)
        return err_set(err, ERR_MEMORY, "", "out of memory for a row");
    errno = 0;
    bool failed = json_dumpf(row, stream, 0) != 0 || fputc('\n', stream) == EOF;
    int saved = errno ? errno : EIO;
    json_decref(row);
    return failed ? err_errno(err, saved, "", "cannot write a row") : OK;
}

int task_row_write(FILE *stream, const struct str *prompt, const struct str *completion, bool plain_text, struct err *err) {
    if (prompt->failed || completion->failed)
        return err_memory(err, "a row", prompt->len + completion->len);
    json_t *row = plain_text ? json_pack("{s:s+}", "text", str_text(prompt), str_text(completion))
                             : json_pack("{s:s, s:s}", "prompt", str_text(prompt), "completion", str_text(completion));
    return task_row_dump(stream, row, err);
}
