/* tokenize_records - encodes texts with engine/tokenizer.h for scripts/reference/check_tokenizer.py.
 *
 *   tokenize_records TOKENIZER.json          records on stdin: u32 length, bytes; for each on stdout: u32 count, i32 ids,
 *                                            then twice (special tokens kept, left out) u32 length, bytes of decoded text
 *   tokenize_records TOKENIZER.json FILE...  encodes each file, prints bytes, tokens, CPU seconds and MB/s
 *
 * Native byte order. Built by the script. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/tokenizer.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void put_u32(size_t n) {
    uint32_t value = (uint32_t)n;
    fwrite(&value, sizeof value, 1, stdout);
}

static int answer(const struct tokenizer *tokenizer, const char *text, size_t n, struct token_list *ids, struct err *err) {
    ids->len = 0;
    int rc = tokenizer_encode(tokenizer, text, n, ids, err);
    if (rc != OK)
        return rc;
    put_u32(ids->len);
    fwrite(ids->data, sizeof *ids->data, ids->len, stdout);
    for (int skip = 0; skip < 2; skip++) {
        struct str decoded = {0};
        tokenizer_decode(tokenizer, ids->data, ids->len, skip == 1, &decoded);
        if (decoded.failed)
            rc = err_set(err, ERR_INPUT, "", "decoding failed");
        put_u32(decoded.len);
        fwrite(decoded.data, 1, decoded.len, stdout);
        str_free(&decoded);
    }
    fflush(stdout);
    return rc;
}

static int answer_records(const struct tokenizer *tokenizer, struct err *err) {
    struct token_list ids = {0};
    char *text = NULL;
    uint32_t n;
    int rc = OK;
    while (rc == OK && fread(&n, sizeof n, 1, stdin) == 1) {
        free(text);
        text = mem_alloc((size_t)n, 1, "a record", err);
        if (!text || fread(text, 1, n, stdin) != n)
            rc = err_set(err, ERR_IO, "stdin", "a record is cut off");
        else
            rc = answer(tokenizer, text, n, &ids, err);
    }
    free(text);
    free(ids.data);
    return rc;
}

static int time_file(const struct tokenizer *tokenizer, const char *path, struct err *err) {
    struct token_list ids = {0};
    struct file_map map;
    int rc = file_map_open(path, &map, err);
    if (rc != OK)
        return rc;
    double start = now();
    rc = tokenizer_encode(tokenizer, map.data, map.size, &ids, err);
    double seconds = now() - start;
    if (rc == OK)
        printf("%s: %zu bytes, %zu tokens, %.4f s of CPU time, %.1f MB/s\n", path, map.size, ids.len, seconds,
               1e-6 * (double)map.size / seconds);
    file_map_close(&map);
    free(ids.data);
    return rc;
}

int main(int argc, char **argv) {
    struct tokenizer *tokenizer = NULL;
    struct err err = {0};
    int rc = argc < 2 ? err_set(&err, ERR_USAGE, "", "usage: tokenize_records TOKENIZER.json [FILE...]") : OK;
    if (rc == OK)
        rc = tokenizer_open(argv[1], &tokenizer, &err);
    if (rc == OK && argc == 2)
        rc = answer_records(tokenizer, &err);
    for (int i = 2; rc == OK && i < argc; i++)
        rc = time_file(tokenizer, argv[i], &err);
    tokenizer_free(tokenizer);
    if (rc != OK)
        fprintf(stderr, "tokenize_records: %s: %s\n", err.where, err.message);
    return err_exit_status(rc);
}
