/* Which process of many this is, from invented environments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/rank.h"

static const char *environment; /* "NAME=VALUE NAME=VALUE ", what get() sees */

static char *get(const char *name) {
    static char values[8][32];
    static int next;
    size_t n = strlen(name);
    for (const char *at = environment; *at; at += strcspn(at, " ") + 1)
        if (strncmp(at, name, n) == 0 && at[n] == '=') {
            char *value = values[next++ % 8];
            snprintf(value, 32, "%.*s", (int)strcspn(at + n + 1, " "), at + n + 1);
            return value;
        }
    return NULL;
}

struct found {
    const char *environment;
    int rank, size;
    const char *source;
};

static const struct found found[] = {
    {"", 0, 1, ""},
    {"OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 PMIX_RANK=3 ", 3, 4, "OMPI_COMM_WORLD_RANK"},
    {"PMI_RANK=0 PMI_SIZE=2 PMI_FD=7 ", 0, 2, "PMI_RANK"},
    {"PMIX_RANK=3 ", 0, 1, ""},
    {"SLURM_PROCID=5 SLURM_NTASKS=8 SLURM_STEP_NUM_TASKS=8 ", 5, 8, "SLURM_PROCID"},
    /* the script of a job with 8 tasks is one process */
    {"SLURM_PROCID=0 SLURM_NTASKS=8 ", 0, 1, ""},
    /* mpirun inside the script, inside a step of one daemon per node */
    {"OMPI_COMM_WORLD_RANK=6 OMPI_COMM_WORLD_SIZE=8 SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 ", 6, 8, "OMPI_COMM_WORLD_RANK"},
    {"SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=3 SLURM_ARRAY_TASK_COUNT=4 ", 2, 4,
     "SLURM_ARRAY_TASK_ID"},
    {"SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=9 SLURM_ARRAY_TASK_STEP=2 SLURM_ARRAY_TASK_COUNT=5 ",
     3, 5, "SLURM_ARRAY_TASK_ID"},
    {"SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=3 SLURM_ARRAY_TASK_COUNT=4 SLURM_PROCID=1 "
     "SLURM_STEP_NUM_TASKS=3 ", 7, 12, "SLURM_PROCID and SLURM_ARRAY_TASK_ID"},
    {"SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=3 SLURM_ARRAY_TASK_COUNT=4 SLURM_PROCID=0 "
     "SLURM_STEP_NUM_TASKS=1 ", 2, 4, "SLURM_ARRAY_TASK_ID"},
};

static void test_found(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof found / sizeof *found; i++) {
        struct rank rank;
        struct err err = {0};
        environment = found[i].environment;
        if (rank_find(get, &rank, &err) != OK)
            fail_msg("%s: %s: %s", environment, err.where, err.message);
        bool same_source = rank.size == 1 || strcmp(rank.source, found[i].source) == 0;
        if (rank.rank != found[i].rank || rank.size != found[i].size || !same_source)
            fail_msg("%s: %d of %d by \"%s\"", environment, rank.rank, rank.size, rank.source);
    }
}

static void test_refused(void **state) {
    static const char *const refused[] = {
        "OMPI_COMM_WORLD_RANK=4 OMPI_COMM_WORLD_SIZE=4 ",
        "OMPI_COMM_WORLD_SIZE=4 ",
        "OMPI_COMM_WORLD_RANK=one OMPI_COMM_WORLD_SIZE=4 ",
        "PMI_RANK=-1 PMI_SIZE=2 ",
        "PMI_RANK=0 PMI_SIZE=99999999999999999999 ",
        "SLURM_ARRAY_TASK_ID=2 ",
        "SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=7 SLURM_ARRAY_TASK_COUNT=3 ",
        "SLURM_ARRAY_TASK_ID=9 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=3 SLURM_ARRAY_TASK_COUNT=4 ",
    };
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct rank rank;
        struct err err = {0};
        environment = refused[i];
        if (rank_find(get, &rank, &err) != ERR_USAGE || !strstr(err.message, "--shard"))
            fail_msg("%s: %d of %d, \"%s\"", environment, rank.rank, rank.size, err.message);
    }
}

static void test_names(void **state) {
    static const char *const names[][2] = {{"run.h5", "run.2-of-8.h5"},
                                           {"a.b/run", "a.b/run.2-of-8"},
                                           {"dir/run.1.h5", "dir/run.1.2-of-8.h5"},
                                           {".h5", ".h5.2-of-8"}};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct str out = {0};
        rank_put_name(names[i][0], 2, 8, &out);
        assert_string_equal(str_text(&out), names[i][1]);
        str_free(&out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_found), cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
