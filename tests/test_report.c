/* The report directory: what is in it, against numbers computed from the invented run again; what it replaces and what not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "reports/page.h"
#include "reports/report.h"
#include "reports/run.h"
#include "tests/fake_run.h"
#include "tests/must.h"
#include "tests/scratch.h"

static const struct fake_run pruned = {.n_sequences = 70, .score = PROFILE_SCORE_SIGMOID, .gates = true};
static const struct fake_run dense = {.n_sequences = 20, .score = PROFILE_SCORE_NONE, .record = PROFILE_RECORD_ATTENTION};
static const struct fake_run real_scores = {.n_sequences = 20, .score = PROFILE_SCORE_REAL, .gates = true};

static struct scratch scratch;

static int make_directory(void **state) {
    (void)state;
    scratch_open(&scratch);
    return 0;
}

static int remove_directory(void **state) {
    (void)state;
    scratch_close(&scratch);
    return 0;
}

static struct profile *record(const char *name, const struct fake_run *run) {
    struct fake_run forced = *run;
    forced.force = true;
    return fake_profile(scratch_path(&scratch, name), &forced);
}

static char *read_text(const char *name) {
    char *text;
    size_t n;
    struct err err = {0};
    must(file_read_all(scratch_path(&scratch, name), 1 << 24, &text, &n, &err), &err);
    return text;
}

static bool exists(const char *name) {
    return file_exists(scratch_path(&scratch, name));
}

static void count_note(void *self, const char *text) {
    ++*(int *)self;
    assert_non_null(strstr(text, "/nowhere/gnuplot"));
}

/* gnuplot is left out: it has tests of its own. */
static int report(const char *name, struct profile *const *profiles, size_t n, bool force, int *n_notes, struct err *err) {
    int ignored = 0;
    struct report_options options = {.dir = scratch_path(&scratch, name),
                                     .force = force,
                                     .gnuplot = "/nowhere/gnuplot",
                                     .version = " 1.2",
                                     .note = count_note,
                                     .self = n_notes ? n_notes : &ignored};
    return report_write(&(struct report_input){.profiles = profiles, .n_profiles = n}, &options, err);
}

/* Nothing but what is named lies in the directory beside what the tests put there. */
static size_t count_temporaries(void) {
    DIR *dir = opendir(scratch.dir);
    size_t n = 0;
    for (struct dirent *entry; (entry = readdir(dir));)
        n += strstr(entry->d_name, ".tmp-") != NULL;
    closedir(dir);
    return n;
}

static void one_run_gives_all_files(void **state) {
    (void)state;
    static const char *const files[] = {"index.html",
                                        "density.png",
                                        "read_fraction.png",
                                        "gate_density.png",
                                        "mean_utility.png",
                                        "heads.csv",
                                        "layers.csv",
                                        "positions.csv",
                                        "utility_histogram.csv",
                                        "sequences.csv",
                                        "by_layer.csv",
                                        "by_layer.gp",
                                        "utility_by_layer.csv",
                                        "utility_by_layer.gp",
                                        "density_by_position.csv",
                                        "density_by_position.gp",
                                        "head_correlation.csv",
                                        "head_correlation.gp",
                                        "density.svg"};
    struct profile *p = record("run.h5", &pruned);
    struct err err = {0};
    int notes = 0;
    must(report("new/deep/out/", &p, 1, false, &notes, &err), &err);
    assert_int_equal(notes, 4); /* figures that were not drawn */
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char name[64];
        snprintf(name, sizeof name, "new/deep/out/%s", files[i]);
        if (!exists(name))
            fail_msg("no %s", name);
    }
    char *page = read_text("new/deep/out/index.html");
    assert_non_null(strstr(page, "<h2>run.h5</h2>"));
    assert_non_null(strstr(page, "so by_layer was not drawn"));
    free(page);
    assert_int_equal(count_temporaries(), 0);
    profile_close(p);
}

/* Counters of a head, from the definitions and the invented gates. */
static void expect_head(size_t layer, size_t head, char *line, size_t cap) {
    uint64_t scored = 0, open = 0, left = 0, kept = 0;
    double utility = 0;
    for (size_t i = 0; i < pruned.n_sequences; i++) {
        size_t n = fake_length(i);
        scored += n;
        left += n > FAKE_WINDOW + FAKE_SINKS ? n - FAKE_WINDOW - FAKE_SINKS : 0;
        for (size_t t = 0; t < n; t++) {
            bool is_open = fake_open(&pruned, i, layer, head, t);
            open += is_open;
            kept += is_open && t >= FAKE_SINKS && t + FAKE_WINDOW < n;
            utility += (double)fake_utility(&pruned, i, layer, head, t);
        }
    }
    snprintf(line, cap, "\n%zu,%zu,full,%llu,%llu,%llu,%llu,", layer, head, (unsigned long long)scored,
             (unsigned long long)open, (unsigned long long)left, (unsigned long long)kept);
}

static void heads_table_is_right(void **state) {
    (void)state;
    struct profile *p = record("run.h5", &pruned);
    struct err err = {0};
    must(report("heads", &p, 1, false, NULL, &err), &err);
    char *csv = read_text("heads/heads.csv"), line[160];
    assert_int_equal(
        strncmp(csv,
                "layer,kv_head,kind,n_scored,n_open,n_left_window,n_kept,visible_pairs,causal_pairs,long_range_density,"
                "gate_density,kv_fraction,read_fraction,mean_utility,far_attention,sink_attention\n",
                180),
        0);
    for (size_t h = 0; h < FAKE_LH; h++) {
        if (h / FAKE_HEADS == FAKE_SLIDING)
            snprintf(line, sizeof line, "\n%zu,%zu,sliding,0,0,0,0,0,0,,,,,,,\n", h / FAKE_HEADS, h % FAKE_HEADS);
        else
            expect_head(h / FAKE_HEADS, h % FAKE_HEADS, line, sizeof line);
        if (!strstr(csv, line))
            fail_msg("no \"%s\" in\n%s", line + 1, csv);
    }
    free(csv);
    profile_close(p);
}

static void sequences_table_has_every_sequence(void **state) {
    (void)state;
    struct profile *p = record("run.h5", &pruned);
    struct err err = {0};
    must(report("sequences", &p, 1, false, NULL, &err), &err);
    char *csv = read_text("sequences/sequences.csv"), *line = csv;
    static const char *const sources[] = {"a.txt", "b.txt", "c.jsonl"};
    for (size_t i = 0; i < pruned.n_sequences; i++) { /* 70: more than one block */
        char start[96], end[64];
        line = strchr(line, '\n') + 1;
        char *next = strchr(line, '\n');
        snprintf(start, sizeof start, "%zu,%s,%llu,%zu,%zu,", i, sources[fake_source(i)],
                 (unsigned long long)fake_document(i), i % 2 * 70, fake_length(i));
        snprintf(end, sizeof end, ",%zu,4096,%zu\n", 100 + i, 5000 + i);
        assert_int_equal(strncmp(line, start, strlen(start)), 0);
        assert_int_equal(strncmp(next + 1 - strlen(end), end, strlen(end)), 0);
    }
    assert_string_equal(strchr(line, '\n'), "\n");
    free(csv);
    profile_close(p);
}

/* All bins together hold every scored pair of every head. */
static void histogram_tables_are_complete(void **state) {
    (void)state;
    struct profile *p = record("run.h5", &pruned);
    struct err err = {0};
    must(report("bins", &p, 1, false, NULL, &err), &err);
    unsigned long long expected = 0, pairs = 0, scored = 0, open = 0, in_heads = 0;
    for (size_t i = 0; i < pruned.n_sequences; i++)
        expected += fake_length(i) * FAKE_HEADS * (FAKE_LAYERS - 1);
    char *text = read_text("bins/utility_histogram.csv");
    for (char *line = strchr(text, '\n') + 1; *line; line = strchr(line, '\n') + 1) {
        double low, high;
        unsigned layer, head;
        unsigned long long n;
        assert_int_equal(sscanf(line, "%lf,%lf,%u,%u,%llu", &low, &high, &layer, &head, &n), 5);
        assert_true(low < high && layer < FAKE_LAYERS && head < FAKE_HEADS);
        pairs += n;
    }
    free(text);
    text = read_text("bins/positions.csv");
    for (char *line = strchr(text, '\n') + 1; *line; line = strchr(line, '\n') + 1) {
        unsigned long long low, high, n, m;
        unsigned layer, head;
        assert_int_equal(sscanf(line, "%llu,%llu,%u,%u,%llu,%llu", &low, &high, &layer, &head, &n, &m), 6);
        scored += n;
        open += m;
    }
    free(text);
    for (size_t i = 0; i < pruned.n_sequences; i++)
        for (size_t h = 0; h < FAKE_LH; h++)
            for (size_t t = 0; h / FAKE_HEADS != FAKE_SLIDING && t < fake_length(i); t++)
                in_heads += fake_open(&pruned, i, h / FAKE_HEADS, h % FAKE_HEADS, t);
    assert_int_equal(pairs, expected);
    assert_int_equal(scored, expected);
    assert_int_equal(open, in_heads);
    profile_close(p);
}

static void several_runs_have_sections_and_differences(void **state) {
    (void)state;
    struct fake_run other = pruned;
    other.n_sequences = 30;
    struct profile *p[] = {record("a.h5", &pruned), record("b.h5", &other), record("c.h5", &dense),
                           record("d.h5", &real_scores)};
    struct err err = {0};
    must(report("many", p, 4, false, NULL, &err), &err);
    assert_true(exists("many/difference_2_1.png") && exists("many/difference_2_1.csv"));
    assert_true(exists("many/difference_4_1.png"));
    assert_false(exists("many/difference_3_1.png")); /* densities against far attention: nothing in common */
    assert_true(exists("many/run1/density.png") && exists("many/run2/heads.csv"));
    assert_true(exists("many/run3/far_attention.png") && exists("many/run3/attention_by_distance.csv"));
    assert_false(exists("many/run3/density.png") || exists("many/run3/utility_histogram.csv") ||
                 exists("many/run3/positions.csv"));
    assert_true(exists("many/run4/mean_utility.png") && exists("many/run4/utility_by_layer.gp"));
    char *page = read_text("many/index.html");
    assert_non_null(strstr(page, "<h2>Run 3: c.h5</h2>"));
    assert_non_null(strstr(page, "run 2 (b.h5) minus run 1 (a.h5)"));
    assert_non_null(strstr(page, "Run 3 differs from run 1"));
    free(page);
    for (size_t i = 0; i < 4; i++)
        profile_close(p[i]);
}

static void an_interrupted_run_is_reported_as_that(void **state) {
    (void)state;
    struct fake_run stopped = pruned;
    stopped.stop_after = 4;
    stopped.force = true;
    struct err err = {0};
    struct profile *p = NULL;
    must(fake_record(scratch_path(&scratch, "stopped.h5"), &stopped, &err), &err);
    must(profile_open(scratch_path(&scratch, "stopped.h5.part"), &p, &err), &err);
    must(report("stopped", &p, 1, false, NULL, &err), &err);
    char *page = read_text("stopped/index.html");
    assert_non_null(strstr(page, "This run was not finished"));
    assert_non_null(strstr(page, "12 sequences"));
    free(page);
    profile_close(p);
}

static void only_reports_are_replaced(void **state) {
    (void)state;
    struct profile *p = record("run.h5", &pruned);
    struct err err = {0};
    must(report("out", &p, 1, false, NULL, &err), &err);
    assert_int_equal(report("out", &p, 1, false, NULL, &err), ERR_EXISTS);
    assert_non_null(strstr(err.message, "--force"));
    scratch_write_text(&scratch, "out/old.csv", "left over");
    err = (struct err){0};
    must(report("out", &p, 1, true, NULL, &err), &err);
    assert_false(exists("out/old.csv")); /* the new one as a whole */
    assert_true(exists("out/index.html"));
    scratch_write_text(&scratch, "precious/index.html", "<html>mine</html>");
    assert_int_equal(report("precious", &p, 1, true, NULL, &err), ERR_EXISTS);
    char *mine = read_text("precious/index.html");
    assert_string_equal(mine, "<html>mine</html>");
    free(mine);
    scratch_write_text(&scratch, "file", "x");
    err = (struct err){0};
    assert_int_equal(report("file", &p, 1, true, NULL, &err), ERR_EXISTS);
    err = (struct err){0};
    assert_int_equal(report("file/out", &p, 1, true, NULL, &err), ERR_EXISTS);
    assert_int_equal(count_temporaries(), 0);
    profile_close(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_run_gives_all_files),
        cmocka_unit_test(heads_table_is_right),
        cmocka_unit_test(sequences_table_has_every_sequence),
        cmocka_unit_test(histogram_tables_are_complete),
        cmocka_unit_test(several_runs_have_sections_and_differences),
        cmocka_unit_test(an_interrupted_run_is_reported_as_that),
        cmocka_unit_test(only_reports_are_replaced),
    };
    return cmocka_run_group_tests_name("report", tests, make_directory, remove_directory);
}
