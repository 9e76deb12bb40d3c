/* Starts, saved runs and logs with the k-th allocation failing, for every k: ERR_MEMORY, nothing leaked. */
#include "tests/failing_heap.h"
#include "tests/must.h"
#include "tests/scratch.h"
#include "train/init.h"
#include "train/log.h"
#include "train/state.h"

static struct scratch dir;
static struct checkpoint *source;
static struct device *dev;
static struct model *model;
static struct params *params;
static struct schedule schedule;

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

static int use_files(void *unused, struct err *err) {
    const struct progress_state progress = {.step = 1, .control = density_control_start()};
    const struct state_save save = {.out_dir = scratch_path(&dir, "out"), .source = source, .params = params,
                                    .schedule = &schedule, .progress = &progress, .dtype = DTYPE_BF16, .protocol = "adapt",
                                    .version = "1", .commit = "abc"};
    struct progress_state restored;
    (void)unused;
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
    (void)state;
    heap_begin();
    heap_spare_jansson();
    begin();
    assert_true(heap_fail_each(use_files, NULL, 1) > 100);
    end();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_saving),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
