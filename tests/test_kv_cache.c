/* The host side of the cache: options, growth, figures, the invariant checker, exhausted memory. */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kv_cache.h"
#include "tests/kv_world.h"
#include "tests/op_util.h"

static const int window_2x2[] = {10, 20, 30, 40};
static const bool ring_only_2[] = {false, true};

static struct kv_cache_options options_2x2(void) {
    return (struct kv_cache_options){.n_slots = 2, .n_layers = 2, .n_kv_heads = 2, .head_dim = 8, .max_len = 1000,
                                     .page_slots = 32, .window = window_2x2, .ring_only = ring_only_2, .sinks = 3,
                                     .dtype = DTYPE_F32};
}

static void test_bad_options(void **state) {
    (void)state;
    struct backend b = backend_open(ops_ref(), DTYPE_F32);
    static const int no_window[] = {10, 20, 0, 40};
    struct kv_cache_options bad[7];
    static const char *const words[7] = {"slots", "multiple of 32", "sinks", "layer 1, KV head 0",
                                         "max_len", "smaller", "--dtype f32"};
    for (int i = 0; i < 7; i++)
        bad[i] = options_2x2();
    bad[0].n_slots = 0;
    bad[1].page_slots = 48;
    bad[2].sinks = -1;
    bad[3].window = no_window;
    bad[4].max_len = 0;
    bad[5].n_slots = bad[5].max_len = INT_MAX / 2;
    bad[6].dtype = DTYPE_BF16;
    bad[6].head_dim = 7;
    for (int i = 0; i < 7; i++) {
        struct kv_cache *cache = NULL;
        struct err err = {0};
        int rc = kv_cache_create(b.ops, b.dev, &bad[i], &cache, &err);
        assert_int_equal(rc, ERR_INPUT);
        assert_null(cache);
        if (!strstr(err.message, words[i]))
            fail_msg("case %d says \"%s\", without \"%s\"", i, err.message, words[i]);
    }
    backend_close(&b);
}

/* Geometry by hand: lane pages are ring + what can leave it, in pages of 32 slots of 8 f32 keys and values. */
static void test_geometry(void **state) {
    (void)state;
    struct backend b = backend_open(ops_ref(), DTYPE_F32);
    struct kv_cache_options o = options_2x2();
    struct kv_cache *c;
    struct err err = {0};
    assert_int_equal(kv_cache_create(b.ops, b.dev, &o, &c, &err), OK);
    assert_int_equal(c->page_bytes, 32 * 8 * 2 * 4);
    /* layer 0: 1 + ceil(990 / 32) = 32 and 1 + ceil(980 / 32) = 32; layer 1 keeps rings only: 1 and 2 */
    assert_int_equal(c->n_pages_max, 2 * (32 + 32 + 1 + 2));
    assert_int_equal(c->list_len, 32);
    assert_int_equal(c->ring_len, 40);
    assert_int_equal(c->n_pages, 0);
    assert_int_equal(kv_cache_peak_bytes(c), 0);
    kv_cache_free(c);
    kv_cache_free(NULL);
    backend_close(&b);
}

static void test_too_long(void **state) {
    (void)state;
    struct backend b = backend_open(ops_ref(), DTYPE_F32);
    struct kv_cache_options o = options_2x2();
    struct kv_cache *c;
    struct err err = {0};
    int slot = 1, n = 1001;
    assert_int_equal(kv_cache_create(b.ops, b.dev, &o, &c, &err), OK);
    assert_int_equal(kv_cache_reserve(c, 1, &slot, &n, &err), ERR_INPUT);
    assert_non_null(strstr(err.message, "maximum length of 1000"));
    kv_cache_free(c);
    backend_close(&b);
}

/* A world of one slot, 8 KiB pages: the committed pool must follow what is kept, not what was fed. */
static size_t pool_after(double density, int T, size_t *held_bytes) {
    struct kv_geometry g = {.n_slots = 1, .n_layers = 2, .n_kv_heads = 4, .group = 1, .head_dim = 128, .max_len = T,
                            .page_slots = 64, .density = density, .scale = 0.1, .magnitude = 1, .seed = 5};
    struct kv_world w;
    int slot = 0, chunk = 64;
    for (int i = 0; i < 8; i++)
        g.window[i] = 64;
    kv_world_open(&w, ops_ref(), DTYPE_F32, DTYPE_F32, &g);
    while (w.fed[0] < T)
        kv_world_step(&w, 1, &slot, &chunk);
    kv_world_check(&w);
    struct kv_counts counts = {0};
    struct err err = {0};
    assert_int_equal(kv_cache_read_counts(w.cache, 0, &counts, &err), OK);
    *held_bytes = counts.allocated_bytes;
    assert_int_equal(kv_cache_peak_bytes(w.cache), counts.allocated_bytes); /* one slot that only grows */
    size_t pool = w.cache->n_pages * w.cache->page_bytes;
    kv_world_close(&w);
    return pool;
}

static void test_pool_follows_density(void **state) {
    (void)state;
    enum { T = 1024, LANES = 8, PAGE = 64 * 128 * 2 * 4 };
    const size_t slab = 4 << 20;
    size_t held, full = pool_after(1, T, &held);
    assert_int_equal(held, LANES * (T / 64) * PAGE);
    assert_in_range(full, held, held + slab);
    for (int i = 0; i < 2; i++) {
        double density = i ? 0.1 : 0;
        size_t pool = pool_after(density, T, &held);
        /* ring, the share that is kept (five standard deviations and a partial page on top), one slab of slack */
        size_t kept = (size_t)(density * (T - 64) + 5 * 10 * (density > 0) + 63 * (density > 0)) / 64;
        assert_true(held <= LANES * (1 + kept) * PAGE);
        assert_true(pool <= held + slab);
        assert_true(pool < full);
    }
}

/* Pages as large as a slab, so that growth has no slack: where everything is kept the bound is what is then held. */
static void test_reserve_is_exact(void **state) {
    (void)state;
    struct kv_geometry g = {.n_slots = 2, .n_layers = 1, .n_kv_heads = 1, .group = 1, .head_dim = 16384, .max_len = 150,
                            .page_slots = 32, .density = 1, .scale = 0.01, .magnitude = 1, .seed = 6, .window = {40}};
    struct kv_world w;
    int slots[2] = {1, 0}, n[2] = {17, 9};
    kv_world_open(&w, ops_ref(), DTYPE_F32, DTYPE_F32, &g);
    assert_true(w.cache->page_bytes >= 4 << 20);
    for (int step = 0; step < 8; step++) {
        size_t held = 0;
        kv_world_step(&w, 2, slots, n);
        for (int s = 0; s < 2; s++) {
            struct kv_counts counts = {0};
            struct err err = {0};
            assert_int_equal(kv_cache_read_counts(w.cache, s, &counts, &err), OK);
            held += counts.allocated_bytes / w.cache->page_bytes;
        }
        assert_int_equal(w.cache->n_pages, held);
        kv_world_check(&w);
    }
    kv_world_close(&w);
}

/* ---- the checker finds each kind of damage ----------------------------------------------------------------------- */

/* Adds `by` to a 4-byte counter on the device. */
static void bump(struct kv_world *w, int32_t *at_dev, int32_t by) {
    int32_t value;
    w->b.ops->download(w->b.dev, &value, at_dev, sizeof value);
    backend_sync(&w->b);
    value += by;
    w->b.ops->upload(w->b.dev, at_dev, &value, sizeof value);
}

static void expect_damage(struct kv_world *w, int32_t *at_dev, int32_t by, const char *word) {
    struct err err = {0};
    bump(w, at_dev, by);
    int rc = kv_cache_check(w->cache, &err);
    if (rc != ERR_INPUT || !strstr(err.message, word))
        fail_msg("expected a report of \"%s\", got %d: %s", word, rc, err.message);
    bump(w, at_dev, -by);
    kv_world_check(w);
}

static void test_check_finds_damage(void **state) {
    (void)state;
    struct kv_geometry g = {.n_slots = 2, .n_layers = 2, .n_kv_heads = 2, .group = 1, .head_dim = 4, .max_len = 300,
                            .page_slots = 32, .density = 0.5, .scale = 1, .magnitude = 1, .sinks = 2, .seed = 9,
                            .window = {10, 20, 30, 40}, .ring_only = {false, true}};
    struct kv_world w;
    int slots[2] = {0, 1}, n[2] = {150, 90};
    kv_world_open(&w, ops_ref(), DTYPE_F32, DTYPE_F32, &g);
    kv_world_step(&w, 2, slots, n);
    kv_world_check(&w);
    struct kv_cache *c = w.cache;
    int32_t lane = (int32_t)kv_lane(c, 1, 0, 1), place = lane * c->list_len;
    expect_damage(&w, c->n_fed + lane, 1000, "n_fed is out of range");
    expect_damage(&w, c->n_fed + lane, 1, "fed differently");
    expect_damage(&w, c->n_kept + lane, 80, "n_kept is out of range");
    expect_damage(&w, c->n_kept + lane, -1, "n_long is not");
    expect_damage(&w, c->n_long + lane, 1, "n_long is not");
    expect_damage(&w, c->n_kept + kv_lane(c, 1, 1, 0), 1, "n_kept is out of range");
    expect_damage(&w, (int32_t *)(void *)(c->visible_pairs + lane), -4000, "visible_pairs");
    expect_damage(&w, (int32_t *)(void *)(c->visible_pairs + lane), 4000, "visible_pairs");
    expect_damage(&w, (int32_t *)(void *)(c->visible_pairs + kv_lane(c, 0, 1, 1)), 1, "visible_pairs");
    expect_damage(&w, c->page_list + place, 1, "held twice");
    expect_damage(&w, c->page_list + place, 100000, "out of range");
    expect_damage(&w, c->page_list + place + c->list_len - 1, 8, "no counter asks for");
    expect_damage(&w, c->free_pages, 1, "free page");
    expect_damage(&w, c->n_free, -1, "neither held nor free");
    expect_damage(&w, c->n_free, 100000, "number of free pages");
    expect_damage(&w, (int32_t *)(void *)(c->ring_open + (size_t)lane * (size_t)c->ring_len), 2, "neither 0 nor 1");
    kv_world_close(&w);
}

/* ---- memory runs out --------------------------------------------------------------------------------------------- */

/* Host allocations while `armed`: the one numbered fail_at fails. Address sanitizer brings its own calloc. */
static struct {
    bool armed;
    int n, fail_at;
} host;

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
enum { COUNTS_HOST = 1 };
extern void *__libc_calloc(size_t count, size_t size);
void *calloc(size_t count, size_t size) {
    return host.armed && ++host.n == host.fail_at ? NULL : __libc_calloc(count, size);
}
#else
enum { COUNTS_HOST = 0 };
#endif

/* The reference, with device allocations that fail on demand. */
static int n_device, fail_device_at;

static void *failing_alloc(struct device *dev, size_t n_bytes) {
    return ++n_device == fail_device_at ? NULL : ops_ref()->mem_alloc(dev, n_bytes);
}

static void *failing_reserve(struct device *dev, size_t n_bytes) {
    return ++n_device == fail_device_at ? NULL : ops_ref()->mem_reserve(dev, n_bytes);
}

static bool failing_commit(struct device *dev, void *ptr_dev, size_t n_bytes) {
    return ++n_device == fail_device_at ? false : ops_ref()->mem_commit(dev, ptr_dev, n_bytes);
}

/* Creates a cache and reserves its first pages; the codes of both, leaks left to the sanitizer. */
static int create_and_reserve(const struct ops *ops, struct device *dev, struct err *err) {
    struct kv_cache_options o = options_2x2();
    struct kv_cache *c = NULL;
    int slot = 0, n = 100, rc = kv_cache_create(ops, dev, &o, &c, err);
    if (rc)
        assert_null(c);
    else
        rc = kv_cache_reserve(c, 1, &slot, &n, err);
    kv_cache_free(c);
    return rc;
}

static void test_device_memory_runs_out(void **state) {
    (void)state;
    struct backend b = backend_open(ops_ref(), DTYPE_F32);
    struct ops ops = *ops_ref();
    int rc = ERR_MEMORY, k;
    ops.mem_alloc = failing_alloc;
    ops.mem_reserve = failing_reserve;
    ops.mem_commit = failing_commit;
    for (k = 1; rc != OK; k++) {
        struct err err = {0};
        assert_true(k < 50);
        n_device = 0;
        fail_device_at = k;
        rc = create_and_reserve(&ops, b.dev, &err);
        if (rc)
            assert_true(rc == ERR_MEMORY && err.code == ERR_MEMORY && err.message[0]);
    }
    assert_int_equal(k - 2, n_device); /* every allocation failed once */
    assert_true(n_device >= 9);
    backend_close(&b);
}

static void test_host_memory_runs_out(void **state) {
    (void)state;
    if (!COUNTS_HOST) {
        print_message("SKIP: a sanitizer owns calloc\n");
        skip();
    }
    struct backend b = backend_open(ops_ref(), DTYPE_F32);
    int rc = ERR_MEMORY, k;
    for (k = 1; rc != OK; k++) {
        struct err err = {0};
        assert_true(k < 50);
        host.n = 0;
        host.fail_at = k;
        host.armed = true;
        rc = create_and_reserve(ops_ref(), b.dev, &err);
        host.armed = false;
        if (rc)
            assert_true(rc == ERR_MEMORY && err.code == ERR_MEMORY && err.message[0]);
    }
    assert_true(host.n >= 5); /* cache, windows, layers, counters, page numbers */
    backend_close(&b);
}

/* A kernel that finds no page reports it instead of writing somewhere, and the device stays failed. */
static void test_no_reserve(void **state) {
    (void)state;
    struct backend b = backend_open(ops_ref(), DTYPE_F32);
    struct kv_cache_options o = options_2x2();
    struct kv_cache *c;
    struct err err = {0}, first = {0}, again = {0};
    int slots[1] = {0}, splits[2] = {0, 1}, pos0[1] = {0};
    double zeros[16] = {0};
    assert_int_equal(kv_cache_create(b.ops, b.dev, &o, &c, &err), OK);
    struct buf k = buf_make(&b, b.real, 16, zeros), open = buf_bytes(&b, 2, zeros);
    b.ops->kv_append(b.dev, &(struct kv_append_args){
        .cache = c, .batch = {.n_seq = 1, .slots = slots, .row_splits = splits, .pos0 = pos0}, .k = k.ptr, .v = k.ptr,
        .open = open.ptr, .ld_kv = 16});
    assert_int_equal(b.ops->sync(b.dev, &first), ERR_MEMORY);
    assert_non_null(strstr(first.message, "kv_cache_reserve"));
    assert_int_equal(b.ops->sync(b.dev, &again), ERR_MEMORY);
    buf_free(&k), buf_free(&open);
    kv_cache_free(c);
    b.ops->close(b.dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_geometry),
        cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_pool_follows_density),
        cmocka_unit_test(test_reserve_is_exact),
        cmocka_unit_test(test_check_finds_damage),
        cmocka_unit_test(test_device_memory_runs_out),
        cmocka_unit_test(test_host_memory_runs_out),
        cmocka_unit_test(test_no_reserve),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
