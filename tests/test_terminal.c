/* The terminal summary: plain text without colour, no escape to a pipe, numbers as counted by hand, the same in JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "reports/colormap.h"
#include "reports/terminal.h"

enum { LAYERS = 3, HEADS = 2 };

/* A run put together by hand: 2 sequences of 100 tokens, window 10; layer 1 slides. */
struct world {
    struct head_sums heads[LAYERS * HEADS], layers[LAYERS];
    bool sliding[LAYERS];
    struct profile_source source;
    const char *corpus;
    struct profile_meta meta;
    struct run run;
};

static void add(struct head_sums *to, const struct head_sums *from) {
    to->n_scored += from->n_scored;
    to->n_open += from->n_open;
    to->n_left_window += from->n_left_window;
    to->n_kept += from->n_kept;
    to->visible_pairs += from->visible_pairs;
    to->causal_pairs += from->causal_pairs;
    to->n_resident += from->n_resident;
    to->n_tok += from->n_tok;
    to->utility_sum += from->utility_sum;
}

static void make_world(struct world *w) {
    static const uint64_t kept[LAYERS * HEADS] = {18, 90, 0, 0, 0, 180}; /* of 180: 0.1, 0.5; sliding; 0, 1 */
    *w = (struct world){.sliding = {false, true, false}, .source = {"a.txt", "", 0}, .corpus = "texts/books/"};
    struct statistics *s = &w->run.statistics;
    for (size_t h = 0; h < LAYERS * HEADS; h++) {
        if (h / HEADS == 1)
            continue;
        w->heads[h] = (struct head_sums){.n_scored = 200,
                                         .n_open = kept[h] + 10,
                                         .n_left_window = 180,
                                         .n_kept = kept[h],
                                         .visible_pairs = 2020,
                                         .causal_pairs = 10100,
                                         .n_resident = 20 + kept[h],
                                         .n_tok = 200,
                                         .utility_sum = 50};
        add(&w->layers[h / HEADS], &w->heads[h]);
        add(&s->total, &w->heads[h]);
    }
    s->n_layers = LAYERS;
    s->n_kv_heads = HEADS;
    s->n_sequences = 2;
    s->n_tokens = 200;
    s->n_predicted = 198;
    s->n_argmax = 99;
    s->n_answers = 8;
    s->n_exact = 2;
    s->has_argmax = true;
    s->nll_sum = 396;
    s->cache_bytes_used = 3000;
    s->cache_bytes_allocated = 4000;
    s->cache_bytes_full = 12000;
    s->shortest = s->longest = 100;
    s->has_scores = s->has_gates = true;
    s->heads = w->heads;
    s->layers = w->layers;
    s->sliding = w->sliding;
    w->meta = (struct profile_meta){.n_layers = LAYERS,
                                    .n_kv_heads = HEADS,
                                    .n_heads = 4,
                                    .head_dim = 8,
                                    .model_path = "m/tiny",
                                    .model_type = "llama",
                                    .model_hash = "00",
                                    .policy = "spkv",
                                    .policy_parameters = "{}",
                                    .window = 10,
                                    .threshold = 0.5,
                                    .score = PROFILE_SCORE_SIGMOID,
                                    .has_gates = true,
                                    .prefill = "pruned",
                                    .chunk = 64,
                                    .batch = 1,
                                    .dtype = "f32",
                                    .backend = "ref",
                                    .threads = 1,
                                    .n_corpora = 1,
                                    .corpus_names = &w->corpus,
                                    .n_sources = 1,
                                    .sources = &w->source,
                                    .pool_peak_bytes = 65536};
    w->run.path = "out/run.h5";
    w->run.meta = &w->meta;
}

static void has_line(const struct str *text, const char *line) {
    if (!strstr(str_text(text), line))
        fail_msg("no \"%s\" in:\n%s", line, str_text(text));
}

static void plain_text_says_the_numbers(void **state) {
    (void)state;
    struct world w;
    struct str s = {0};
    make_world(&w);
    terminal_put_run(&w.run, &(struct terminal_options){.width = 80}, &s);
    has_line(&s, "out/run.h5\n");
    has_line(&s, "model               tiny: llama, 3 layers x 2 KV heads of size 8\n");
    has_line(&s, "corpus              texts/books/ (1 file)\n");
    has_line(&s, "policy              spkv, window 10, sinks 0, threshold 0.5\n");
    has_line(&s, "amount              2 sequences of 100 tokens, 200 in all\n");
    has_line(&s, "loss                2.0000 nat per token (perplexity 7.389, 198 predicted)\n");
    has_line(&s, "most likely token    50.00 %");
    has_line(&s, "answers exact        25.00 %");
    has_line(&s, "long-range density   40.00 %"); /* 288 of 720 */
    has_line(&s, "gate density         41.00 %"); /* 328 of 800 */
    has_line(&s, "KV fraction          46.00 %"); /* 368 of 800 */
    has_line(&s, "read fraction        20.00 %");
    has_line(&s, "1.50 kB used, 2.00 kB allocated, 6.00 kB full (used / full 25.0 %)\n");
    has_line(&s, "    1 sliding-window layer\n");
    has_line(&s, " 0.300  0.100 to 0.500\n");
    has_line(&s, " 0.500  0.000 to 1.000\n");
    has_line(&s, "  layer   2, head   1  1.000     layer   2, head   0  0.000\n");
    assert_null(strstr(str_text(&s), "by layer and KV head"));
    for (size_t i = 0; i < s.len; i++)
        assert_true(s.data[i] == '\n' || (s.data[i] >= 0x20 && s.data[i] < 0x7f));
    str_free(&s);
}

/* Lines of a bar: 44 columns at width 80, share 0.3 and 0.5. */
static void bars_have_the_length_of_their_share(void **state) {
    (void)state;
    struct world w;
    struct str s = {0};
    make_world(&w);
    terminal_put_run(&w.run, &(struct terminal_options){.width = 80}, &s);
    has_line(&s, "    0 #############                                0.300"); /* 13.2 of 44 */
    has_line(&s, "    2 ######################                       0.500"); /* 22 of 44 */
    str_free(&s);
}

static void map_is_ascii_without_colour(void **state) {
    (void)state;
    struct world w;
    struct str s = {0};
    make_world(&w);
    terminal_put_run(&w.run, &(struct terminal_options){.width = 80, .map = true}, &s);
    has_line(&s, "    0 |..++|\n"); /* 0.1, 0.5 */
    has_line(&s, "    1 |////|\n");
    has_line(&s, "    2 |  @@|\n"); /* 0, 1 */
    assert_null(strchr(str_text(&s), '\033'));
    str_free(&s);
}

/* 256 colours: layers 0 and 1 share a line as upper and lower halves. */
static void map_in_colour_uses_half_blocks(void **state) {
    (void)state;
    struct world w;
    struct str s = {0}, expected = {0};
    make_world(&w);
    terminal_put_run(&w.run, &(struct terminal_options){.width = 80, .map = true, .color = true}, &s);
    str_printf(&expected,
               "    0 "
               "\033[38;5;%dm\033[48;5;244m\xe2\x96\x80\xe2\x96\x80\033[0m\033[38;5;%dm\033[48;5;"
               "244m\xe2\x96\x80\xe2\x96\x80\033[0m\n",
               rgb_xterm(colormap_at(COLORMAP_VIRIDIS, 0.1)), rgb_xterm(colormap_at(COLORMAP_VIRIDIS, 0.5)));
    has_line(&s, str_text(&expected));
    str_clear(&expected);
    str_printf(&expected, "    2 \033[38;5;%dm\xe2\x96\x80\xe2\x96\x80\033[0m", rgb_xterm(colormap_at(COLORMAP_VIRIDIS, 0)));
    has_line(&s, str_text(&expected));
    /* Every line ends in plain colours. */
    bool plain = true;
    for (size_t i = 0; i < s.len; i++) {
        if (s.data[i] == '\033')
            plain = strncmp(s.data + i, "\033[0m", 4) == 0;
        if (s.data[i] == '\n')
            assert_true(plain);
    }
    str_free(&expected);
    str_free(&s);
}

static void names_cannot_send_escapes(void **state) {
    (void)state;
    struct world w;
    struct str s = {0};
    make_world(&w);
    w.run.path = "run\033[2J\033]0;title\007.h5";
    w.meta.model_path = "m/\033[31mred\r\n\xc2\x9b"
                        "1m";
    w.meta.policy = "spkv\033c";
    w.corpus = "\033[H\xff";
    terminal_put_run(&w.run, &(struct terminal_options){.width = 80, .map = true}, &s);
    for (size_t i = 0; i < s.len; i++)
        assert_true(s.data[i] == '\n' || (unsigned char)s.data[i] >= 0x20);
    assert_null(strstr(str_text(&s), "\xc2\x9b"));
    assert_int_equal(utf8_first_invalid(s.data, s.len), s.len);
    str_free(&s);
}

static void json_says_the_same(void **state) {
    (void)state;
    struct world w;
    make_world(&w);
    w.meta.model_path = "m/\xff";
    w.meta.threshold = NAN;
    json_t *root = terminal_json(&w.run);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "schema")), "spkv-show");
    assert_int_equal(json_integer_value(json_object_get(root, "version")), 1);
    const json_t *run = json_object_get(root, "run"), *total = json_object_get(root, "total");
    assert_string_equal(json_string_value(json_object_get(run, "model")), "m/\xef\xbf\xbd");
    assert_true(json_is_null(json_object_get(run, "threshold")));
    assert_float_equal(json_real_value(json_object_get(total, "long_range_density")), 0.4, 1e-12);
    assert_float_equal(json_real_value(json_object_get(total, "nll_nat_per_token")), 2, 1e-12);
    assert_float_equal(json_real_value(json_object_get(total, "argmax_share")), 0.5, 0);
    assert_float_equal(json_real_value(json_object_get(total, "answers_exact")), 0.25, 0);
    assert_int_equal(json_integer_value(json_object_get(total, "cache_full_bytes")), 12000);
    const json_t *layers = json_object_get(root, "layers"), *sliding = json_array_get(layers, 1);
    assert_int_equal(json_array_size(layers), LAYERS);
    assert_true(json_is_true(json_object_get(sliding, "sliding")));
    assert_true(json_is_null(json_object_get(sliding, "long_range_density")));
    const json_t *head = json_array_get(json_object_get(json_array_get(layers, 2), "heads"), 1);
    assert_int_equal(json_integer_value(json_object_get(head, "n_kept")), 180);
    assert_float_equal(json_real_value(json_object_get(head, "long_range_density")), 1, 0);
    json_decref(root);
}

/* A run without a sequence has nothing to say and says so. */
static void an_empty_run_is_no_crash(void **state) {
    (void)state;
    struct world w;
    struct str s = {0};
    make_world(&w);
    memset(w.heads, 0, sizeof w.heads);
    memset(w.layers, 0, sizeof w.layers);
    struct statistics *st = &w.run.statistics;
    st->total = (struct head_sums){0};
    st->n_sequences = st->n_tokens = st->n_predicted = st->cache_bytes_full = 0;
    st->nll_sum = 0;
    w.run.partial = true;
    terminal_put_run(&w.run, &(struct terminal_options){.width = 0, .map = true, .color = true}, &s);
    has_line(&s, "Nothing was counted per head");
    has_line(&s, "not finished");
    json_t *root = terminal_json(&w.run);
    assert_true(json_is_null(json_object_get(json_object_get(root, "total"), "nll_nat_per_token")));
    json_decref(root);
    str_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_text_says_the_numbers), cmocka_unit_test(bars_have_the_length_of_their_share),
        cmocka_unit_test(map_is_ascii_without_colour), cmocka_unit_test(map_in_colour_uses_half_blocks),
        cmocka_unit_test(names_cannot_send_escapes),   cmocka_unit_test(json_says_the_same),
        cmocka_unit_test(an_empty_run_is_no_crash),
    };
    return cmocka_run_group_tests_name("terminal", tests, NULL, NULL);
}
