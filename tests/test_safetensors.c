/* safetensors files: what the format allows is read, every known attack is refused. Files are built in memory of exactly
 * their size, so that a sanitizer sees any read beyond them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "base/str.h"
#include "engine/safetensors.h"
#include "tests/scratch.h"

#define F32_2 "\"dtype\":\"F32\",\"shape\":[2]"

struct blob {
    char *data;
    size_t size;
};

/* header length, header, n_data bytes 1, 2, 3, ... */
static struct blob build(const char *header, size_t n_header, size_t n_data) {
    struct blob b = {malloc(8 + n_header + n_data), 8 + n_header + n_data};
    assert_non_null(b.data);
    for (int i = 0; i < 8; i++)
        b.data[i] = (char)(n_header >> 8 * i);
    memcpy(b.data + 8, header, n_header);
    for (size_t i = 0; i < n_data; i++)
        b.data[8 + n_header + i] = (char)(i + 1);
    return b;
}

static int parse(const struct blob *b, struct safetensors *out, struct err *err) {
    return safetensors_parse(b->data, b->size, "x.safetensors", out, err);
}

static int parse_text(const char *header, size_t n_data, struct err *err) {
    struct safetensors file;
    struct blob b = build(header, strlen(header), n_data);
    int rc = parse(&b, &file, err);
    safetensors_close(&file);
    free(b.data);
    return rc;
}

/* --- what is read ----------------------------------------------------------------------------------------------------- */

static void test_reads(void **state) {
    static const char header[] =
        " \n{\"__metadata__\":{\"format\":\"pt\"},\"z.weight\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[0,6]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[6,14]},"
        "\"empty\":{\"dtype\":\"F16\",\"shape\":[4,0],\"data_offsets\":[14,14],\"other\":1},"
        "\"scalar\":{\"data_offsets\":[14,16],\"shape\":[],\"dtype\":\"F16\"}}  \t ";
    struct blob b = build(header, sizeof header - 1, 16);
    struct safetensors file;
    char shape[64];
    (void)state;
    assert_int_equal(parse(&b, &file, NULL), OK);
    assert_int_equal(file.n_tensors, 4);
    for (size_t i = 1; i < file.n_tensors; i++)
        assert_true(strcmp(file.tensors[i - 1].name, file.tensors[i].name) < 0);
    const struct tensor *t = safetensors_find(&file, "a");
    assert_non_null(t);
    assert_int_equal(t->dtype, DTYPE_F32);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->shape[1], 2);
    assert_int_equal(t->n_items, 2);
    assert_ptr_equal(t->data, b.data + 8 + sizeof header - 1 + 6);
    assert_string_equal(t->file, "x.safetensors");
    tensor_format_shape(t, shape, sizeof shape);
    assert_string_equal(shape, "1x2");
    t = safetensors_find(&file, "scalar");
    assert_int_equal(t->n_items, 1);
    tensor_format_shape(t, shape, sizeof shape);
    assert_string_equal(shape, "scalar");
    assert_int_equal(safetensors_find(&file, "empty")->n_items, 0);
    assert_int_equal(safetensors_find(&file, "z.weight")->n_items, 3);
    assert_null(safetensors_find(&file, "z"));
    safetensors_close(&file);
    safetensors_close(&file); /* harmless */
    free(b.data);
    assert_int_equal(parse_text("{}", 0, NULL), OK);
    assert_int_equal(parse_text("{\"__metadata__\":{}}", 0, NULL), OK);
}

static void test_opens_a_file(void **state) {
    struct scratch s;
    struct safetensors file;
    struct err err = {0};
    static const char header[] = "{\"a\":{" F32_2 ",\"data_offsets\":[0,8]}}";
    struct blob b = build(header, sizeof header - 1, 8);
    (void)state;
    scratch_open(&s);
    char *path = scratch_write(&s, "a.safetensors", b.data, b.size);
    assert_int_equal(safetensors_open(path, &file, &err), OK);
    assert_string_equal(file.tensors[0].file, path);
    assert_memory_equal(file.tensors[0].data, b.data + b.size - 8, 8);
    safetensors_close(&file);
    scratch_write(&s, "a.safetensors", b.data, b.size - 1);
    assert_int_equal(safetensors_open(path, &file, &err), ERR_INPUT);
    assert_string_equal(err.where, path);
    scratch_write(&s, "a.safetensors", b.data, 0);
    assert_int_equal(safetensors_open(path, &file, NULL), ERR_INPUT);
    assert_int_equal(safetensors_open(scratch_path(&s, "none"), &file, NULL), ERR_IO);
    assert_int_equal(safetensors_open(s.dir, &file, NULL), ERR_INPUT);
    scratch_close(&s);
    free(b.data);
}

/* --- what is refused -------------------------------------------------------------------------------------------------- */

static const struct {
    const char *header;
    size_t n_data;
    const char *message;
} attacks[] = {
    {"", 0, "not valid JSON"},
    {"[]", 0, "object was expected"},
    {"{", 0, "not valid JSON"},
    {"{} x", 0, "not valid JSON"},
    {"{\"\xff\":{}}", 0, "not valid JSON"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F16\"}}", 0, "duplicate"},
    {"{\"a\":{" F32_2 ",\"data_offsets\":[0,8]},\"a\":{" F32_2 ",\"data_offsets\":[8,16]}}", 16, "duplicate"},
    {"{\"a\":7}", 0, "tensor a: its entry is not an object"},
    {"{\"a\":{}}", 0, "\"dtype\" is missing"},
    {"{\"a\":{\"dtype\":3}}", 0, "\"dtype\" is missing or not a string"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,0]}}", 0, "\"shape\" is missing"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8, "\"shape\" is missing or not an array"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "something else than sizes"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, "something else than sizes"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[\"2\"],\"data_offsets\":[0,8]}}", 8, "something else than sizes"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8, "more than 8 dimensions"},
    {"{\"a\":{" F32_2 "}}", 8, "\"data_offsets\" is missing"},
    {"{\"a\":{" F32_2 ",\"data_offsets\":[8]}}", 8, "not two unsigned integers"},
    {"{\"a\":{" F32_2 ",\"data_offsets\":[0,4,8]}}", 8, "not two unsigned integers"},
    {"{\"a\":{" F32_2 ",\"data_offsets\":[-8,0]}}", 8, "not two unsigned integers"},
    {"{\"a\":{" F32_2 ",\"data_offsets\":[0.0,8.0]}}", 8, "not two unsigned integers"},
    {"{\"a\":{" F32_2 ",\"data_offsets\":[0,18446744073709551615]}}", 8, "not valid JSON"}, /* beyond a JSON integer here */
    {"{\"a\":{" F32_2 ",\"data_offsets\":[8,0]}}", 8, "lie outside the file"},
    {"{\"a\":{" F32_2 ",\"data_offsets\":[0,8]}}", 7, "lie outside the file"},
    {"{\"a\":{" F32_2 ",\"data_offsets\":[9223372036854775800,9223372036854775807]}}", 8, "lie outside the file"},
    {"{\"a\":{" F32_2 ",\"data_offsets\":[0,4]}}", 8, "say different sizes"},
    {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "say different sizes"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,0]}}", 0, "say different sizes"},
    /* products that wrap to a size that fits: 2^62 x 4 items, 2^62 items of 4 bytes */
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", 0, "product of its shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4,0],\"data_offsets\":[0,0]}}", 0, "product of its shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0, "say different sizes"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387906],\"data_offsets\":[0,8]}}", 8, "say different sizes"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,18446744073709551614],\"data_offsets\":[0,8]}}", 8, "not valid JSON"},
    /* tiling */
    {"{\"a\":{" F32_2 ",\"data_offsets\":[0,8]},\"b\":{" F32_2 ",\"data_offsets\":[0,8]}}", 8, "overlaps"},
    {"{\"a\":{" F32_2 ",\"data_offsets\":[0,8]},\"b\":{" F32_2 ",\"data_offsets\":[4,12]}}", 12, "tensor b: overlaps"},
    {"{\"a\":{" F32_2 ",\"data_offsets\":[0,8]},\"b\":{" F32_2 ",\"data_offsets\":[9,17]}}", 17, "tensor b: leaves a hole"},
    {"{\"a\":{" F32_2 ",\"data_offsets\":[1,9]}}", 9, "tensor a: leaves a hole"},
    {"{\"a\":{" F32_2 ",\"data_offsets\":[0,8]}}", 9, "1 bytes after the last tensor"},
    {"{}", 4, "4 bytes after the last tensor"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[4,4]},\"b\":{" F32_2 ",\"data_offsets\":[0,8]}}", 8,
     "overlaps"},
    {"{\"__metadata__\":[]}", 0, "\"__metadata__\" must be an object of strings"},
    {"{\"__metadata__\":{\"n\":1}}", 0, "\"__metadata__\" must be an object of strings"},
};

static void test_attacks(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof attacks / sizeof *attacks; i++) {
        struct err err = {0};
        if (parse_text(attacks[i].header, attacks[i].n_data, &err) == OK)
            fail_msg("accepted: %s", attacks[i].header);
        assert_int_equal(err.code, ERR_INPUT);
        assert_string_equal(err.where, "x.safetensors");
        if (!strstr(err.message, attacks[i].message))
            fail_msg("%s\n  says \"%s\"\n  expected \"%s\"", attacks[i].header, err.message, attacks[i].message);
    }
}

static void test_dtypes(void **state) {
    static const char *const unsupported[] = {
        "BOOL", "F4",  "F6_E2M3", "F6_E3M2", "U8",  "I8",  "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
        "I16",  "U16", "I32",     "U32",     "C64", "F64", "I64",     "U64",     "f32",     "",
    };
    char header[128], expected[64];
    (void)state;
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) {
        struct err err = {0};
        snprintf(header, sizeof header, "{\"w\":{\"dtype\":\"%s\",\"shape\":[8],\"data_offsets\":[0,8]}}", unsupported[i]);
        snprintf(expected, sizeof expected, "tensor w: dtype %s is not supported", unsupported[i]);
        assert_int_equal(parse_text(header, 8, &err), ERR_INPUT);
        assert_non_null(strstr(err.message, expected));
    }
}

static void test_header_length(void **state) {
    static const struct {
        uint64_t length;
        const char *message;
    } lengths[] = {
        {3, "does not fit the file of 10 bytes"},
        {0, "not valid JSON"},
        {100000000, "does not fit"},
        {100000001, "exceeds 100000000"},
        {UINT64_MAX, "exceeds"},
        {UINT64_MAX - 7, "exceeds"}, /* + 8 wraps to 0 */
    };
    struct safetensors file;
    char *bytes = malloc(10);
    (void)state;
    assert_non_null(bytes);
    memcpy(bytes, "\2\0\0\0\0\0\0\0{}", 10);
    assert_int_equal(safetensors_parse(bytes, 10, "x", &file, NULL), OK);
    safetensors_close(&file);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct err err = {0};
        for (int k = 0; k < 8; k++)
            bytes[k] = (char)(lengths[i].length >> 8 * k);
        assert_int_equal(safetensors_parse(bytes, 10, "x", &file, &err), ERR_INPUT);
        if (!strstr(err.message, lengths[i].message))
            fail_msg("length %llu says \"%s\"", (unsigned long long)lengths[i].length, err.message);
    }
    free(bytes);
    for (size_t n = 0; n < 8; n++) {
        struct err err = {0};
        char *few = calloc(n ? n : 1, 1);
        assert_int_equal(safetensors_parse(n ? few : NULL, n, "x", &file, &err), ERR_INPUT);
        assert_non_null(strstr(err.message, "too few"));
        free(few);
    }
}

/* A header that would take gigabytes once parsed is refused by counting. */
static void test_memory_amplification(void **state) {
    struct str header = {0};
    struct safetensors file;
    struct err err = {0};
    (void)state;
    str_putc(&header, '{');
    for (int i = 0; i < 800000; i++)
        str_printf(&header, "%s\"%d\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}", i ? "," : "", i);
    str_putc(&header, '}');
    assert_false(header.failed);
    struct blob b = build(header.data, header.len, 0);
    assert_int_equal(parse(&b, &file, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "more than 4000000 values"));
    free(b.data);
    str_clear(&header);
    for (int i = 0; i < 100000; i++) /* nesting that would overflow the stack of a recursive parser */
        str_puts(&header, "{\"a\":");
    b = build(header.data, header.len, 0);
    err = (struct err){0};
    assert_int_equal(parse(&b, &file, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "depth"));
    free(b.data);
    str_free(&header);
}

/* Every cut of a good file and many damaged bytes: refused, or a file whose tensors can be read in full. */
static void test_damage(void **state) {
    static const char header[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},"
                                 "\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[16,22]}}";
    struct blob good = build(header, sizeof header - 1, 22);
    (void)state;
    for (size_t n = 0; n < good.size; n++) {
        struct safetensors file;
        char *cut = malloc(n ? n : 1);
        memcpy(cut, good.data, n);
        assert_int_equal(safetensors_parse(cut, n, "x", &file, NULL), ERR_INPUT);
        free(cut);
    }
    for (uint32_t i = 0; i < 20000; i++) {
        struct safetensors file;
        struct rng_block draw = rng_philox(7, (struct rng_block){{i, 0, 0, 0}});
        size_t at = draw.v[0] % good.size;
        char before = good.data[at];
        good.data[at] = (char)draw.v[1];
        int rc = parse(&good, &file, NULL);
        assert_true(rc == OK || rc == ERR_INPUT);
        for (size_t k = 0; k < file.n_tensors; k++)
            tensor_check_finite(&file.tensors[k], NULL);
        safetensors_close(&file);
        good.data[at] = before;
    }
    free(good.data);
}

/* --- values ----------------------------------------------------------------------------------------------------------- */

static struct tensor make_tensor(enum dtype dtype, size_t n, const void *data) {
    return (struct tensor){.name = "w", .file = "x.safetensors", .dtype = dtype, .n_dims = 1, .shape = {n}, .n_items = n,
                           .data = data};
}

static void check_bits(enum dtype dtype, const uint32_t *good, size_t n_good, const uint32_t *bad, size_t n_bad) {
    enum { N = 20001 };
    static const size_t places[] = {0, 1, 8190, 8191, 8192, 8193, 16384, N - 1};
    size_t width = dtype_size(dtype);
    char *bytes = malloc(N * width + 1), *data = bytes + 1; /* not aligned */
    assert_non_null(bytes);
    for (size_t i = 0; i < N; i++)
        memcpy(data + i * width, &good[i % n_good], width);
    struct tensor t = make_tensor(dtype, N, data);
    assert_int_equal(tensor_check_finite(&t, NULL), OK);
    for (size_t i = 0; i < sizeof places / sizeof *places * n_bad; i++) {
        struct err err = {0};
        char expected[64];
        size_t at = places[i / n_bad];
        memcpy(data + at * width, &bad[i % n_bad], width);
        assert_int_equal(tensor_check_finite(&t, &err), ERR_INPUT);
        snprintf(expected, sizeof expected, "at element %zu of %d", at, N);
        assert_string_equal(err.where, "x.safetensors");
        assert_non_null(strstr(err.message, expected));
        memcpy(data + at * width, &good[at % n_good], width);
    }
    t.n_items = 0;
    assert_int_equal(tensor_check_finite(&t, NULL), OK);
    free(bytes);
}

static void test_finite(void **state) {
    /* largest, smallest normal, smallest subnormal, zeros; infinities, quiet and signalling NaN */
    static const uint32_t good32[] = {0x7F7FFFFF, 0xFF7FFFFF, 0x00800000, 1, 0x80000001, 0, 0x80000000, 0x3F800000};
    static const uint32_t bad32[] = {0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF};
    static const uint32_t good_bf16[] = {0x7F7F, 0xFF7F, 0x0080, 1, 0x8001, 0, 0x8000, 0x3F80};
    static const uint32_t bad_bf16[] = {0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFFF};
    static const uint32_t good_f16[] = {0x7BFF, 0xFBFF, 0x0400, 1, 0x8001, 0, 0x8000, 0x3C00};
    static const uint32_t bad_f16[] = {0x7C00, 0xFC00, 0x7E00, 0x7C01, 0xFFFF};
    (void)state;
    check_bits(DTYPE_F32, good32, 8, bad32, 6);
    check_bits(DTYPE_BF16, good_bf16, 8, bad_bf16, 5);
    check_bits(DTYPE_F16, good_f16, 8, bad_f16, 5);
}

/* All 65536 half-precision values against the compiler's own conversion. */
static void test_widen(void **state) {
    enum { N = 65536 };
    uint16_t *bits = malloc(N * sizeof *bits);
    float *out = malloc(N * sizeof *out);
    (void)state;
    assert_true(bits && out);
    for (size_t i = 0; i < N; i++)
        bits[i] = (uint16_t)i;
    struct tensor t = make_tensor(DTYPE_F16, N, bits);
    tensor_to_f32(&t, out);
#ifdef __FLT16_MAX__
    for (size_t i = 0; i < N; i++) {
        _Float16 half;
        memcpy(&half, &bits[i], 2);
        float want = (float)half;
        assert_true(isnan(want) ? isnan(out[i]) : memcmp(&want, &out[i], 4) == 0);
    }
#endif
    t.dtype = DTYPE_BF16;
    tensor_to_f32(&t, out);
    for (size_t i = 0; i < N; i++) {
        uint32_t wide;
        memcpy(&wide, &out[i], 4);
        assert_true(wide == (uint32_t)i << 16 || isnan(out[i]));
    }
    free(bits);
    free(out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads),         cmocka_unit_test(test_opens_a_file),
        cmocka_unit_test(test_attacks),       cmocka_unit_test(test_dtypes),
        cmocka_unit_test(test_header_length), cmocka_unit_test(test_memory_amplification),
        cmocka_unit_test(test_damage),        cmocka_unit_test(test_finite),
        cmocka_unit_test(test_widen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
