/* Starts, saved runs and logs with the k-th allocation failing, for every k: ERR_MEMORY, nothing leaked. The C library's
 * allocator is replaced by one that counts; a sanitizer has its own, so those builds skip. jansson is left out: its lexer
 * (2.14) asserts when it cannot allocate. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/scratch.h"
#include "train/init.h"
#include "train/log.h"
#include "train/state.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)

static void test_saving(void **state) {
    (void)state;
    printf("SKIP: this build has its own allocator\n");
    skip();
}

#else

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void __libc_free(void *p);

static long countdown = -1; /* allocations until the one that fails; -1 = none does */
static long live;           /* blocks taken while counting and not given back */
static int counting;

static int fails(void) {
    int now = countdown > 0 && --countdown == 0;
    if (now)
        errno = ENOMEM;
    return now;
}

void *malloc(size_t n) {
    void *p = fails() ? NULL : __libc_malloc(n);
    live += counting && p;
    return p;
}

void *calloc(size_t count, size_t size) {
    void *p = fails() ? NULL : __libc_calloc(count, size);
    live += counting && p;
    return p;
}

void *realloc(void *old, size_t n) {
    void *p = fails() ? NULL : __libc_realloc(old, n);
    live += counting && p && !old;
    return p;
}

void free(void *p) {
    live -= counting && p;
    __libc_free(p);
}

/* Counted, but never failing. */
static void *steady_malloc(size_t n) {
    void *p = __libc_malloc(n);
    live += counting && p;
    return p;
}

static struct scratch dir;
static struct checkpoint *source;
static struct device *dev;
static struct model *model;
static struct params *params;
static struct schedule schedule;

static void must(int rc, const struct err *err) {
    if (rc != OK)
        fail_msg("%s: %s", err->where, err->message);
}

static int make_start(struct err *err) {
    struct model_config config = {0};
    int rc = init_model(scratch_path(&dir, "config.json"), NULL, 1, scratch_path(&dir, "start"), err);
    if (rc == OK)
        rc = model_config_read(scratch_path(&dir, "start"), &config, err);
    if (rc == OK)
        rc = init_added(&config, &schedule, scratch_path(&dir, "start"), err);
    model_config_free(&config);
    return rc;
}

static void begin(void) {
    struct err err = {0};
    schedule = schedule_default();
    schedule.steps = 100;
    scratch_open(&dir);
    scratch_write_text(&dir, "config.json", "{\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":12,"
                                            "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"vocab_size\":16}");
    must(make_start(&err), &err);
    must(checkpoint_open(scratch_path(&dir, "start"), NULL, &source, &err), &err);
    must(ops_ref()->open(&(struct device_options){.dtype = DTYPE_F32, .n_threads = 1}, &dev, &err), &err);
    must(model_load(source, ops_ref(), dev, &model, &err), &err);
    must(params_create(model, TRAIN_ALL, &params, &err), &err);
}

static void end(void) {
    params_free(params);
    model_free(model);
    ops_ref()->close(dev);
    checkpoint_close(source);
    scratch_close(&dir);
}

static int write_log(struct err *err) {
    struct train_log *log;
    int rc = train_log_open(scratch_path(&dir, "out"), 1, &log, err);
    if (rc == OK)
        rc = train_log_step(log, &(struct train_log_row){.step = 2}, err);
    int closed = train_log_close(log, err);
    return rc == OK ? closed : rc;
}

static int use_files(struct err *err) {
    const struct progress_state progress = {.step = 1, .control = density_control_start()};
    const struct state_save save = {.out_dir = scratch_path(&dir, "out"), .source = source, .params = params,
                                    .schedule = &schedule, .progress = &progress, .dtype = DTYPE_BF16, .protocol = "adapt",
                                    .version = "1", .commit = "abc"};
    struct progress_state restored;
    int rc = make_start(err);
    if (rc == OK)
        rc = state_clean(scratch_path(&dir, "out"), err);
    if (rc == OK)
        rc = state_save(&save, err);
    if (rc == OK)
        rc = state_load(scratch_path(&dir, "out"), source, params, &schedule, &restored, err);
    return rc == OK ? write_log(err) : rc;
}

static void test_saving(void **state) {
    struct err err = {0};
    long k = 0, left;
    int rc;
    begin();
    json_set_alloc_funcs(steady_malloc, free);
    rc = use_files(&err); /* what the libraries keep for good is taken now */
    (void)state;
    if (rc != OK)
        fail_msg("%s: %s", err.where, err.message);
    do {
        err = (struct err){0};
        live = 0;
        counting = 1;
        countdown = ++k;
        rc = use_files(&err);
        left = countdown;
        countdown = -1;
        counting = 0;
        if (live != 0)
            fail_msg("%ld blocks leaked when allocation %ld failed", live, k);
        if (rc != OK && rc != ERR_MEMORY)
            fail_msg("allocation %ld failed, reported as %d: %s: %s", k, rc, err.where, err.message);
    } while (left == 0); /* some failures do no harm, such as that of a stream's buffer */
    end();
    assert_int_equal(rc, OK);
    printf("%ld allocations failed one by one\n", k - 1);
    assert_true(k > 100);
}

#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_saving),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
