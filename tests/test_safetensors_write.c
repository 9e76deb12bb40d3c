/* safetensors files that are written: what the reader finds, alignment, rounding, full disks, failing allocations. */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/json.h"
#include "engine/safetensors_write.h"
#include "tests/must.h"
#include "tests/scratch.h"

static const struct tensor_plan plans[] = {
    {"b \"quoted\" \xc3\xa4", DTYPE_F32, 2, {3, 5}},
    {"empty", DTYPE_F32, 2, {0, 7}},
    {"a", DTYPE_BF16, 1, {4097}},
    {"scalar", DTYPE_F32, 0, {0}},
    {"last.empty", DTYPE_BF16, 1, {0}},
};
enum { N = sizeof plans / sizeof *plans };
static const struct tensor_note notes[] = {{"format", "pt"}, {"note", "a\nb"}};

static float value_at(size_t tensor, size_t i) {
    return (float)tensor + (float)i / 7 - 100;
}

/* Every tensor in pieces of `piece` items. */
static int write_file(const char *path, size_t piece, struct err *err) {
    static const size_t n_items[N] = {15, 0, 4097, 1, 0};
    struct safetensors_writer w;
    float values[4097];
    int rc = safetensors_writer_open(path, plans, N, notes, 2, &w, err);
    for (size_t t = 0; t < N; t++) {
        for (size_t i = 0; i < n_items[t]; i++)
            values[i] = value_at(t, i);
        for (size_t i = 0; rc == OK && i < n_items[t]; i += piece)
            rc = safetensors_writer_put(&w, values + i, i + piece < n_items[t] ? piece : n_items[t] - i, err);
    }
    if (rc == OK)
        return safetensors_writer_commit(&w, err);
    safetensors_writer_discard(&w);
    return rc;
}

static void assert_content(const char *path) {
    struct safetensors file;
    struct err err = {0};
    must(safetensors_open(path, &file, &err), &err);
    assert_int_equal(file.n_tensors, N);
    assert_int_equal(((const char *)safetensors_find(&file, plans[0].name)->data - (const char *)file.map.data) % 64, 0);
    for (size_t t = 0; t < N; t++) {
        const struct tensor *found = safetensors_find(&file, plans[t].name);
        assert_non_null(found);
        assert_int_equal(found->dtype, plans[t].dtype);
        assert_int_equal(found->n_dims, plans[t].n_dims);
        for (int i = 0; i < plans[t].n_dims; i++)
            assert_int_equal(found->shape[i], plans[t].shape[i]);
        for (size_t i = 0; i < found->n_items; i++) {
            float wanted = value_at(t, i);
            if (plans[t].dtype == DTYPE_BF16)
                wanted = bf16_to_f32(f32_to_bf16(wanted));
            assert_true(dtype_load(found->data, found->dtype, i) == (double)wanted);
        }
    }
    safetensors_close(&file);
}

static void test_round_trip(void **state) {
    static const size_t pieces[] = {1, 17, 4096, 1 << 20};
    struct scratch dir;
    struct err err = {0};
    (void)state;
    scratch_open(&dir);
    for (size_t i = 0; i < 4; i++) {
        char *path = scratch_path(&dir, "x.safetensors");
        must(write_file(path, pieces[i], &err), &err);
        assert_content(path);
    }
    scratch_close(&dir);
}

/* The header as bytes: notes in "__metadata__", nothing but spaces after it. */
static void test_header(void **state) {
    struct scratch dir;
    struct err err = {0};
    char *text;
    size_t size, n = 0;
    json_t *object;
    (void)state;
    scratch_open(&dir);
    char *path = scratch_path(&dir, "x.safetensors");
    must(write_file(path, 100, &err), &err);
    must(file_read_all(path, 1 << 20, &text, &size, &err), &err);
    for (int i = 7; i >= 0; i--)
        n = n << 8 | (unsigned char)text[i];
    assert_int_equal((8 + n) % 64, 0);
    assert_int_equal(size, 8 + n + 15 * 4 + 4097 * 2 + 4);
    must(json_parse_object(text + 8, n, "header", &object, &err), &err);
    json_t *metadata = json_object_get(object, "__metadata__");
    assert_string_equal(json_string_value(json_object_get(metadata, "format")), "pt");
    assert_string_equal(json_string_value(json_object_get(metadata, "note")), "a\nb");
    json_decref(object);
    free(text);
    scratch_close(&dir);
}

static void test_nothing(void **state) {
    struct safetensors_writer w;
    struct safetensors file;
    struct scratch dir;
    struct err err = {0};
    (void)state;
    scratch_open(&dir);
    for (size_t n_notes = 0; n_notes < 2; n_notes++) {
        char *path = scratch_path(&dir, "x.safetensors");
        must(safetensors_writer_open(path, NULL, 0, notes, n_notes, &w, &err), &err);
        must(safetensors_writer_commit(&w, &err), &err);
        must(safetensors_open(path, &file, &err), &err);
        assert_int_equal(file.n_tensors, 0);
        safetensors_close(&file);
    }
    scratch_close(&dir);
}

static void test_rounding(void **state) {
    const struct tensor_plan plan = {"x", DTYPE_BF16, 1, {6}};
    const float values[] = {1 + 0x1p-8f, 1 + 0x3p-8f, 1 + 0x1.01p-8f, INFINITY, -0.0f, NAN};
    const float rounded[] = {1, 1 + 0x1p-6f, 1 + 0x1p-7f, INFINITY, -0.0f};
    struct safetensors_writer w;
    struct safetensors file;
    struct scratch dir;
    struct err err = {0};
    (void)state;
    scratch_open(&dir);
    char *path = scratch_path(&dir, "x.safetensors");
    must(safetensors_writer_open(path, &plan, 1, NULL, 0, &w, &err), &err);
    must(safetensors_writer_put(&w, values, 6, &err), &err);
    must(safetensors_writer_commit(&w, &err), &err);
    must(safetensors_open(path, &file, &err), &err);
    for (size_t i = 0; i < 5; i++) {
        float found = (float)dtype_load(file.tensors[0].data, DTYPE_BF16, i);
        assert_memory_equal(&found, &rounded[i], sizeof found);
    }
    assert_true(isnan(dtype_load(file.tensors[0].data, DTYPE_BF16, 5)));
    safetensors_close(&file);
    scratch_close(&dir);
}

/* Discarded and failed files leave the old one alone and nothing beside it. */
static void test_old_stays(void **state) {
    const struct tensor_plan twice[] = {{"x", DTYPE_F32, 1, {1}}, {"y", DTYPE_F32, 1, {1}}, {"x", DTYPE_F32, 1, {2}}};
    struct safetensors_writer w;
    struct scratch dir;
    struct err err = {0};
    float one = 1;
    (void)state;
    scratch_open(&dir);
    char *path = scratch_path(&dir, "x.safetensors");
    must(write_file(path, 100, &err), &err);
    must(safetensors_writer_open(path, twice, 2, NULL, 0, &w, &err), &err);
    must(safetensors_writer_put(&w, &one, 1, &err), &err);
    safetensors_writer_discard(&w);
    assert_int_equal(safetensors_writer_open(path, twice, 3, NULL, 0, &w, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "tensor x would be written twice"));
    err = (struct err){0};
    assert_int_equal(safetensors_writer_open(scratch_path(&dir, "absent/x"), twice, 2, NULL, 0, &w, &err), ERR_IO);
    assert_content(path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir.dir), 0); /* nothing else was in it */
}

/* In a child, files may not grow beyond `limit` bytes: exit status 0 when that was an ERR_IO and the old file is whole. */
static int write_limited(const char *path, rlim_t limit) {
    pid_t child = fork();
    int status = -1;
    if (child == 0) {
        struct rlimit r = {limit, limit};
        struct err err = {0};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &r);
        int rc = write_file(path, 100, &err);
        _exit(rc == ERR_IO && strstr(err.where, "x.safetensors") ? 0 : 1);
    }
    waitpid(child, &status, 0);
    return status;
}

static void test_full_disk(void **state) {
    static const rlim_t limits[] = {0, 7, 100, 1000, 5000, 8000};
    struct scratch dir;
    struct err err = {0};
    (void)state;
    scratch_open(&dir);
    char *path = scratch_path(&dir, "x.safetensors");
    must(write_file(path, 100, &err), &err);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        assert_int_equal(write_limited(path, limits[i]), 0);
        assert_content(path);
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir.dir), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_header),    cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_rounding),   cmocka_unit_test(test_old_stays), cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
