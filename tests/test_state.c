/* Saved training runs: what is restored, what a reader of models finds, exchanges, leftovers, full disks, foreign states. */
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

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "tests/must.h"
#include "tests/scratch.h"
#include "train/init.h"
#include "train/state.h"

#define CONFIG(hidden) "{\"model_type\":\"llama\",\"hidden_size\":" hidden ",\"intermediate_size\":40," \
                       "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":48," \
                       "\"tie_word_embeddings\":true,\"torch_dtype\":\"float16\"}"

/* A run: a small model with a predictor, on the reference device. */
struct run {
    struct scratch dir;
    struct checkpoint *source;
    struct device *dev;
    struct model *model;
    struct params *params;
    struct schedule schedule;
    struct progress_state progress;
};

/* Everything but the directory and the schedule. */
static void run_open(struct run *r, const char *source_dir, const char *predictor_dir, enum dtype dtype) {
    struct err err = {0};
    must(checkpoint_open(source_dir, predictor_dir, &r->source, &err), &err);
    must(ops_ref()->open(&(struct device_options){.dtype = dtype, .n_threads = 1}, &r->dev, &err), &err);
    must(model_load_unmerged(r->source, ops_ref(), r->dev, &r->model, &err), &err);
    must(params_create(r->model, r->schedule.trained, &r->params, &err), &err);
}

static void run_close(struct run *r) {
    params_free(r->params);
    model_free(r->model);
    ops_ref()->close(r->dev);
    checkpoint_close(r->source);
}

/* Makes the start; `hidden` is the width of the model. */
static void run_begin(struct run *r, enum trained trained, const char *config) {
    struct err err = {0};
    r->schedule = schedule_default();
    must(schedule_set(&r->schedule, "steps", "100", &err), &err);
    must(schedule_set(&r->schedule, "window", "16", &err), &err);
    must(schedule_set(&r->schedule, "threshold", "0.625", &err), &err);
    r->schedule.trained = trained;
    r->schedule.lora_r = trained == TRAIN_LORA ? 4 : 0;
    must(schedule_check(&r->schedule, "", &err), &err);
    r->progress = (struct progress_state){.step = 12, .n_tok = 3456, .data_epoch = 1, .data_next = 789,
                                          .data_hash = "0123456789abcdef0123456789abcdef",
                                          .control = {.factor = 1.0 / 3, .sum = -0.1, .n_steps = 12}};
    scratch_open(&r->dir);
    char *path = scratch_write_text(&r->dir, "in/config.json", config);
    scratch_write_text(&r->dir, "in/tokenizer.json", "{\"t\": 1}");
    must(init_model(path, NULL, 3, scratch_path(&r->dir, "base"), &err), &err);
    struct checkpoint *dense;
    must(checkpoint_open(scratch_path(&r->dir, "base"), NULL, &dense, &err), &err);
    must(init_added(checkpoint_config(dense), &r->schedule, scratch_path(&r->dir, "start"), &err), &err);
    checkpoint_close(dense);
    run_open(r, scratch_path(&r->dir, "base"), scratch_path(&r->dir, "start"), DTYPE_F32);
}

static void run_end(struct run *r) {
    run_close(r);
    scratch_close(&r->dir);
}

/* Odd values everywhere: the i-th item of an array of the p-th parameter. */
static float value_at(uint64_t seed, size_t p, int part, size_t i) {
    return rng_uniform(seed, p, (uint32_t)part, 0, (uint32_t)i) - 0.5f;
}

static float *array_of(const struct param *p, int part) {
    return part == 0 ? p->master : part == 1 ? p->m : p->v;
}

static void fill(const struct run *r, uint64_t seed) {
    struct err err = {0};
    for (size_t p = 0; p < r->params->n; p++)
        for (int part = 0; part < 3; part++) {
            const struct param *param = &r->params->list[p];
            float *values = malloc(param->n * sizeof *values);
            assert_non_null(values);
            for (size_t i = 0; i < param->n; i++)
                values[i] = value_at(seed, p, part, i);
            ops_ref()->upload(r->dev, array_of(param, part), values, param->n * sizeof *values);
            must(ops_ref()->sync(r->dev, &err), &err);
            free(values);
        }
}

static void assert_filled(const struct run *r, uint64_t seed) {
    struct err err = {0};
    for (size_t p = 0; p < r->params->n; p++)
        for (int part = 0; part < 3; part++) {
            const struct param *param = &r->params->list[p];
            float *values = malloc(param->n * sizeof *values);
            assert_non_null(values);
            ops_ref()->download(r->dev, values, array_of(param, part), param->n * sizeof *values);
            must(ops_ref()->sync(r->dev, &err), &err);
            for (size_t i = 0; i < param->n; i++)
                if (values[i] != value_at(seed, p, part, i))
                    fail_msg("%s part %d item %zu is %.9g, expected %.9g", param->name, part, i, (double)values[i],
                             (double)value_at(seed, p, part, i));
            free(values);
        }
}

static int save(const struct run *r, enum dtype dtype, struct err *err) {
    return state_save(&(struct state_save){.out_dir = scratch_path(&r->dir, "out"), .source = r->source, .params = r->params,
                                           .schedule = &r->schedule, .progress = &r->progress, .dtype = dtype,
                                           .protocol = "adapt", .version = "1.2", .commit = "abc"}, err);
}

static int load(const struct run *r, struct progress_state *progress, struct err *err) {
    return state_load(scratch_path(&r->dir, "out"), r->source, r->params, &r->schedule, progress, err);
}

static void assert_same_progress(const struct progress_state *a, const struct progress_state *b) {
    assert_true(a->step == b->step && a->n_tok == b->n_tok);
    assert_true(a->data_epoch == b->data_epoch && a->data_next == b->data_next);
    assert_string_equal(a->data_hash, b->data_hash);
    assert_true(a->control.factor == b->control.factor && a->control.sum == b->control.sum);
    assert_true(a->control.n_steps == b->control.n_steps);
}

/* --- round trips ------------------------------------------------------------------------------------------------------ */

static void test_round_trip(void **state) {
    static const enum trained trained[] = {TRAIN_ALL, TRAIN_PREDICTOR, TRAIN_LORA};
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct run r;
        struct progress_state progress = {0};
        struct err err = {0};
        bool found;
        run_begin(&r, trained[i], CONFIG("32"));
        must(state_find(scratch_path(&r.dir, "out"), &found, &err), &err);
        assert_false(found);
        fill(&r, 5);
        must(save(&r, DTYPE_BF16, &err), &err);
        must(state_find(scratch_path(&r.dir, "out"), &found, &err), &err);
        assert_true(found);
        fill(&r, 6);
        must(load(&r, &progress, &err), &err);
        assert_filled(&r, 5);
        assert_same_progress(&progress, &r.progress);
        run_end(&r);
    }
}

/* On a bf16 device the weights that the model computes with follow the restored masters. */
static void test_handles_follow(void **state) {
    struct run r;
    struct progress_state progress;
    struct err err = {0};
    int32_t id = 7;
    float row[32];
    (void)state;
    run_begin(&r, TRAIN_ALL, CONFIG("32"));
    run_close(&r);
    run_open(&r, scratch_path(&r.dir, "base"), scratch_path(&r.dir, "start"), DTYPE_BF16);
    fill(&r, 5);
    must(save(&r, DTYPE_BF16, &err), &err);
    run_close(&r);
    run_open(&r, scratch_path(&r.dir, "base"), scratch_path(&r.dir, "start"), DTYPE_BF16);
    must(load(&r, &progress, &err), &err);
    int32_t *id_dev = ops_ref()->mem_alloc(r.dev, sizeof id);
    float *row_dev = ops_ref()->mem_alloc(r.dev, sizeof row);
    ops_ref()->upload(r.dev, id_dev, &id, sizeof id);
    ops_ref()->embed(r.dev, r.model->embed, id_dev, 1, 1, row_dev);
    ops_ref()->download(r.dev, row, row_dev, sizeof row);
    must(ops_ref()->sync(r.dev, &err), &err);
    for (size_t i = 0; i < 32; i++)
        assert_true(row[i] == bf16_to_f32(f32_to_bf16(value_at(5, 0, 0, 7 * 32 + i))));
    ops_ref()->mem_free(r.dev, id_dev);
    ops_ref()->mem_free(r.dev, row_dev);
    run_end(&r);
}

/* --- what others read ------------------------------------------------------------------------------------------------- */

static json_t *read_json(const struct run *r, const char *name) {
    json_t *object;
    struct err err = {0};
    must(json_read_object(scratch_path(&r->dir, name), 1 << 20, &object, &err), &err);
    return object;
}

static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static void assert_trained_with(const json_t *t) {
    assert_string_equal(text_of(t, "protocol"), "adapt");
    assert_string_equal(text_of(t, "version"), "1.2");
    assert_string_equal(text_of(t, "commit"), "abc");
    assert_int_equal(json_integer_value(json_object_get(t, "steps")), 12);
    assert_int_equal(json_integer_value(json_object_get(t, "planned_steps")), 100);
    assert_int_equal(json_integer_value(json_object_get(t, "tokens")), 3456);
    assert_true(json_array_size(json_object_get(t, "deviations")) >= 3);
}

static void test_model_directory(void **state) {
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    static const char *const names[] = {"float32", "bfloat16"};
    struct run r;
    struct err err = {0};
    (void)state;
    run_begin(&r, TRAIN_ALL, CONFIG("32"));
    fill(&r, 5);
    for (int i = 0; i < 2; i++) {
        struct checkpoint *c;
        must(save(&r, dtypes[i], &err), &err);
        must(checkpoint_open(scratch_path(&r.dir, "out/checkpoint"), NULL, &c, &err), &err);
        assert_non_null(checkpoint_predictor(c));
        assert_true(checkpoint_predictor(c)->window == 16 && checkpoint_predictor(c)->threshold == 0.625);
        assert_int_equal(checkpoint_n_tensors(c), r.params->n);
        for (size_t p = 0; p < r.params->n; p++) {
            const struct tensor *t = checkpoint_find(c, r.params->list[p].name);
            assert_true(t && t->dtype == dtypes[i] && t->n_items == r.params->list[p].n);
            float first = value_at(5, p, 0, 0), kept = dtypes[i] == DTYPE_F32 ? first : bf16_to_f32(f32_to_bf16(first));
            assert_true((float)dtype_load(t->data, t->dtype, 0) == kept);
        }
        checkpoint_close(c);
        json_t *config = read_json(&r, "out/checkpoint/config.json");
        assert_string_equal(text_of(config, "dtype"), names[i]);
        assert_null(json_object_get(config, "torch_dtype"));
        assert_trained_with(json_object_get(json_object_get(config, "spkv"), "trained_with"));
        json_decref(config);
        assert_true(file_exists(scratch_path(&r.dir, "out/checkpoint/tokenizer.json")));
    }
    run_end(&r);
}

static void test_predictor_directory(void **state) {
    struct run r;
    struct checkpoint *c;
    struct err err = {0};
    (void)state;
    run_begin(&r, TRAIN_PREDICTOR, CONFIG("32"));
    fill(&r, 5);
    must(save(&r, DTYPE_F32, &err), &err);
    assert_false(file_exists(scratch_path(&r.dir, "out/checkpoint/model.safetensors")));
    json_t *config = read_json(&r, "out/checkpoint/spkv_config.json");
    assert_string_equal(text_of(config, "base_model_name_or_path"), scratch_path(&r.dir, "base"));
    assert_string_equal(text_of(config, "base_model_hash"), checkpoint_base_hash(r.source));
    assert_trained_with(json_object_get(config, "trained_with"));
    json_decref(config);
    must(checkpoint_open(scratch_path(&r.dir, "base"), scratch_path(&r.dir, "out/checkpoint"), &c, &err), &err);
    assert_null(checkpoint_warning(c));
    const struct tensor *t = checkpoint_find(c, r.params->list[0].name);
    assert_true(dtype_load(t->data, t->dtype, 0) == (double)value_at(5, 0, 0, 0));
    checkpoint_close(c);
    run_end(&r);
}

/* Predictor and low-rank updates under PEFT's names, which a reader merges; from a dense twin the updates alone. */
static void check_lora_directory(const char *policy) {
    bool gated = strcmp(policy, "spkv") == 0;
    struct run r;
    struct checkpoint *c;
    struct device *dev;
    struct model *merged;
    struct err err = {0};
    run_begin(&r, TRAIN_LORA, CONFIG("32"));
    if (!gated) {
        run_close(&r);
        must(schedule_set(&r.schedule, "policy", policy, &err), &err);
        must(checkpoint_open(scratch_path(&r.dir, "base"), NULL, &c, &err), &err);
        must(init_added(checkpoint_config(c), &r.schedule, scratch_path(&r.dir, "start"), &err), &err);
        checkpoint_close(c);
        run_open(&r, scratch_path(&r.dir, "base"), scratch_path(&r.dir, "start"), DTYPE_F32);
    }
    fill(&r, 5);
    must(save(&r, DTYPE_F32, &err), &err);
    json_t *config = read_json(&r, "out/checkpoint/spkv_config.json");
    assert_int_equal(json_integer_value(json_object_get(config, "r")), 4);
    assert_true(json_number_value(json_object_get(config, "lora_alpha")) == 8);
    assert_string_equal(text_of(config, "base_model_hash"), checkpoint_base_hash(r.source));
    json_decref(config);
    must(checkpoint_open(scratch_path(&r.dir, "base"), scratch_path(&r.dir, "out/checkpoint"), &c, &err), &err);
    assert_null(checkpoint_warning(c));
    assert_int_equal(checkpoint_predictor(c) != NULL, gated);
    const struct tensor *a = checkpoint_find(c, "model.layers.1.self_attn.v_proj.lora_A.weight");
    const struct tensor *b = checkpoint_find(c, "model.layers.1.self_attn.v_proj.lora_B.weight");
    assert_true(a && a->shape[0] == 4 && a->shape[1] == 32 && b && b->shape[0] == 16 && b->shape[1] == 4);
    assert_null(checkpoint_find(c, "model.layers.1.mlp.up_proj.lora_A.weight"));
    must(ops_ref()->open(&(struct device_options){.dtype = DTYPE_F32}, &dev, &err), &err);
    must(model_load(c, ops_ref(), dev, &merged, &err), &err);
    assert_true(merged->lora_rank == 0 && (merged->predictor != NULL) == gated);
    model_free(merged);
    ops_ref()->close(dev);
    checkpoint_close(c);
    run_end(&r);
}

static void test_lora_directory(void **state) {
    (void)state;
    check_lora_directory("spkv");
    check_lora_directory("full");
}

/* Without a predictor: no "spkv" object that a reader would look for tensors of. */
static void test_dense(void **state) {
    struct run r;
    struct checkpoint *c;
    struct err err = {0};
    (void)state;
    run_begin(&r, TRAIN_ALL, CONFIG("32"));
    run_close(&r);
    must(schedule_set(&r.schedule, "policy", "full", &err), &err);
    run_open(&r, scratch_path(&r.dir, "base"), NULL, DTYPE_F32);
    must(save(&r, DTYPE_BF16, &err), &err);
    must(checkpoint_open(scratch_path(&r.dir, "out/checkpoint"), NULL, &c, &err), &err);
    assert_null(checkpoint_predictor(c));
    checkpoint_close(c);
    json_t *config = read_json(&r, "out/checkpoint/config.json");
    assert_null(json_object_get(config, "spkv"));
    assert_string_equal(text_of(json_object_get(config, "trained_with"), "protocol"), "adapt");
    json_decref(config);
    run_end(&r);
}

/* A run goes on from its own directory, whose files are exchanged under it. */
static void test_source_is_output(void **state) {
    struct run r;
    struct progress_state progress;
    struct err err = {0};
    (void)state;
    run_begin(&r, TRAIN_ALL, CONFIG("32"));
    fill(&r, 5);
    must(save(&r, DTYPE_BF16, &err), &err);
    run_close(&r);
    run_open(&r, scratch_path(&r.dir, "out/checkpoint"), NULL, DTYPE_F32);
    must(load(&r, &progress, &err), &err);
    assert_filled(&r, 5);
    for (uint64_t seed = 6; seed < 9; seed++) {
        fill(&r, seed);
        must(save(&r, DTYPE_BF16, &err), &err);
    }
    fill(&r, 9);
    must(load(&r, &progress, &err), &err);
    assert_filled(&r, 8);
    assert_true(file_exists(scratch_path(&r.dir, "out/checkpoint/tokenizer.json")));
    run_end(&r);
}

/* --- refusals --------------------------------------------------------------------------------------------------------- */

static void assert_refused(const struct run *r, const char *part) {
    struct progress_state progress;
    struct err err = {0};
    assert_int_equal(load(r, &progress, &err), ERR_INPUT);
    if (!strstr(err.message, part))
        fail_msg("\"%s\" is not in: %s", part, err.message);
}

static void test_other_schedule(void **state) {
    struct run r;
    struct progress_state progress;
    struct err err = {0};
    (void)state;
    run_begin(&r, TRAIN_ALL, CONFIG("32"));
    must(save(&r, DTYPE_F32, &err), &err);
    r.schedule.save_every = 3;
    must(load(&r, &progress, &err), &err);
    r.schedule.learning_rate = 0.5;
    assert_refused(&r, "\"learning_rate\" 0.0002, this one 0.5");
    run_end(&r);
}

/* Saves one run, then opens another in the place of its model. */
static void assert_other_model(enum trained trained, const char *config, const char *part) {
    struct run one, two;
    struct err err = {0};
    run_begin(&one, trained, CONFIG("32"));
    must(save(&one, DTYPE_F32, &err), &err);
    run_begin(&two, trained, config);
    must(file_make_dirs(scratch_path(&two.dir, "out"), &err), &err);
    assert_int_equal(rename(scratch_path(&one.dir, "out/checkpoint"), scratch_path(&two.dir, "out/checkpoint")), 0);
    assert_refused(&two, part);
    run_end(&two);
    run_end(&one);
}

static void test_other_model(void **state) {
    (void)state;
    assert_other_model(TRAIN_ALL, CONFIG("64"), "model.embed_tokens.weight.master is f32 48x32, expected f32 48x64");
    assert_other_model(TRAIN_ALL, "{\"model_type\":\"qwen2\",\"hidden_size\":32,\"intermediate_size\":40,"
                                  "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
                                  "\"vocab_size\":48,\"tie_word_embeddings\":true}",
                       "tensor model.layers.0.self_attn.q_proj.bias.master is missing");
    assert_other_model(TRAIN_PREDICTOR, "{\"model_type\":\"llama\",\"hidden_size\":32,\"intermediate_size\":44,"
                                        "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
                                        "\"vocab_size\":48,\"tie_word_embeddings\":true}",
                       "base_model_hash");
}

/* Fewer parameters than were saved: the predictor is gone. */
static void test_surplus(void **state) {
    struct run r;
    struct err err = {0};
    (void)state;
    run_begin(&r, TRAIN_ALL, CONFIG("32"));
    must(save(&r, DTYPE_F32, &err), &err);
    run_close(&r);
    run_open(&r, scratch_path(&r.dir, "base"), NULL, DTYPE_F32);
    assert_refused(&r, "utility_predictor");
    run_end(&r);
}

static void test_broken_files(void **state) {
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"{}", "\"format\" is missing"},
        {"{\"format\": 1, \"version\": 1, \"base_model_hash\": \"\", \"progress\": {}, \"schedule\": {}}",
         "\"format\" is an"},
        {"{\"format\": \"x\", \"version\": 1, \"base_model_hash\": \"\", \"progress\": {}, \"schedule\": {}}", "\"x\""},
        {"{\"format\": \"spkv-training-state\", \"version\": 2, \"base_model_hash\": \"\", \"progress\": {}, "
         "\"schedule\": {}}", "version 2"},
        {"{\"format\": \"spkv-training-state\", \"version\": 1, \"base_model_hash\": \"\", \"progress\": {}, "
         "\"schedule\": {}}", "\"steps\" is missing"},
        {"{\"format\": \"spkv-training-state\", \"version\": 1, \"base_model_hash\": \"\", \"progress\": {}, "
         "\"schedule\": {\"steps\": 9}}", "\"step\" is missing"},
        {"{\"format\": \"spkv-training-state\", \"version\": 1, \"base_model_hash\": \"\", \"progress\": {\"step\": 1}, "
         "\"schedule\": {\"steps\": 9}}", "\"tokens\" is missing"},
    };
    struct run r;
    struct err err = {0};
    (void)state;
    run_begin(&r, TRAIN_ALL, CONFIG("32"));
    must(save(&r, DTYPE_F32, &err), &err);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        scratch_write_text(&r.dir, "out/checkpoint/training_state.json", cases[i].text);
        assert_refused(&r, cases[i].part);
    }
    must(save(&r, DTYPE_F32, &err), &err);
    scratch_write_text(&r.dir, "out/checkpoint/training_state.safetensors", "cut");
    assert_refused(&r, "");
    run_end(&r);
}

/* --- the disk --------------------------------------------------------------------------------------------------------- */

/* Entries of OUT. */
static int n_entries(const struct run *r) {
    struct str command = {0};
    int n = 0;
    str_printf(&command, "ls -A %s", scratch_path(&r->dir, "out"));
    FILE *list = popen(str_text(&command), "r");
    assert_non_null(list);
    for (int c; (c = fgetc(list)) != EOF;)
        n += c == '\n';
    pclose(list);
    str_free(&command);
    return n;
}

static void test_leftovers(void **state) {
    struct run r;
    struct progress_state progress;
    struct err err = {0};
    (void)state;
    run_begin(&r, TRAIN_ALL, CONFIG("32"));
    fill(&r, 5);
    must(state_clean(scratch_path(&r.dir, "out"), &err), &err); /* nothing there yet */
    must(save(&r, DTYPE_F32, &err), &err);
    must(save(&r, DTYPE_F32, &err), &err);
    assert_int_equal(n_entries(&r), 1);
    scratch_write_text(&r.dir, "out/checkpoint.tmp-abcdef/model.safetensors", "half");
    scratch_write_text(&r.dir, "out/checkpoint.old/model.safetensors", "old");
    scratch_write_text(&r.dir, "out/log.csv", "kept");
    must(state_clean(scratch_path(&r.dir, "out"), &err), &err);
    assert_int_equal(n_entries(&r), 2);
    must(load(&r, &progress, &err), &err);
    /* killed between the renames of a file system without exchange */
    assert_int_equal(rename(scratch_path(&r.dir, "out/checkpoint"), scratch_path(&r.dir, "out/checkpoint.old")), 0);
    must(state_clean(scratch_path(&r.dir, "out"), &err), &err);
    must(load(&r, &progress, &err), &err);
    assert_filled(&r, 5);
    run_end(&r);
}

/* In a child, files may not grow beyond `limit`: ERR_IO, and OUT/checkpoint is the one of before. */
static void assert_full_disk(const struct run *r, rlim_t limit) {
    pid_t child = fork();
    int status = -1;
    if (child == 0) {
        struct rlimit to = {limit, limit};
        struct err err = {0};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &to);
        _exit(save(r, DTYPE_F32, &err) == ERR_IO && err.message[0] ? 0 : 1);
    }
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
}

static void test_full_disk(void **state) {
    struct run r;
    struct progress_state progress;
    struct err err = {0};
    (void)state;
    run_begin(&r, TRAIN_ALL, CONFIG("32"));
    fill(&r, 5);
    must(save(&r, DTYPE_F32, &err), &err);
    fill(&r, 6);
    for (rlim_t limit = 0; limit < 100000; limit = 3 * limit + 50) { /* the state has about 270 kB */
        assert_full_disk(&r, limit);
        assert_int_equal(n_entries(&r), 1);
    }
    must(load(&r, &progress, &err), &err);
    assert_filled(&r, 5);
    run_end(&r);
}

/* Saves runs of seeds 5, 6, 5, 6 ... until it is killed. */
static void save_for_ever(const struct run *r) {
    struct err err = {0};
    for (uint64_t i = 0;; i++) {
        fill(r, 5 + i % 2);
        if (save(r, DTYPE_F32, &err) != OK)
            _exit(1);
    }
}

static float first_master(const struct run *r) {
    struct err err = {0};
    float x;
    ops_ref()->download(r->dev, &x, r->params->list[0].master, sizeof x);
    must(ops_ref()->sync(r->dev, &err), &err);
    return x;
}

/* Killed at random moments while saving: one of the two states, complete, and a start cleans up. */
static void test_kills(void **state) {
    struct run r;
    struct progress_state progress;
    struct err err = {0};
    int n_leftovers = 0, n_of_6 = 0;
    (void)state;
    run_begin(&r, TRAIN_ALL, CONFIG("32"));
    fill(&r, 5);
    uint64_t begin = clock_us();
    must(save(&r, DTYPE_F32, &err), &err);
    uint64_t save_us = clock_us() - begin;
    for (unsigned i = 0; i < 40; i++) {
        int status;
        pid_t child = fork();
        if (child == 0)
            save_for_ever(&r);
        usleep((useconds_t)(1000 + save_us * i / 12)); /* up to about three saves */
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status));
        n_leftovers += n_entries(&r) > 1;
        must(state_clean(scratch_path(&r.dir, "out"), &err), &err);
        assert_int_equal(n_entries(&r), 1);
        must(load(&r, &progress, &err), &err);
        uint64_t seed = first_master(&r) == value_at(5, 0, 0, 0) ? 5 : 6;
        assert_filled(&r, seed);
        n_of_6 += seed == 6;
    }
    printf("40 kills: %d left something to clean up, %d found the second state\n", n_leftovers, n_of_6);
    run_end(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),      cmocka_unit_test(test_handles_follow),
        cmocka_unit_test(test_model_directory), cmocka_unit_test(test_predictor_directory),
        cmocka_unit_test(test_lora_directory),
        cmocka_unit_test(test_dense),           cmocka_unit_test(test_source_is_output),
        cmocka_unit_test(test_other_schedule),  cmocka_unit_test(test_other_model),
        cmocka_unit_test(test_surplus),         cmocka_unit_test(test_broken_files),
        cmocka_unit_test(test_leftovers),       cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_kills),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
