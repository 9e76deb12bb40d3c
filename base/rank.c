#include "base/rank.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { MAX_RANKS = 1 << 20 };
static const char way_out[] = "say which part this is with --shard I/N";

/* Who starts processes, the innermost first: mpirun within a job of Slurm has both. A step's own number of tasks tells srun
 * from the script of a job, which is one process however many tasks the job has. */
struct launcher {
    const char *rank, *size;
};
static const struct launcher launchers[] = {
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
    {"PMI_RANK", "PMI_SIZE"},
    {"PMIX_RANK", "PMIX_SIZE"},
    {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"},
};

static int read_number(char *(*get)(const char *name), const char *name, long max, long *out, struct err *err) {
    const char *text = get(name);
    char *end;
    errno = 0;
    *out = text ? strtol(text, &end, 10) : -1;
    if (!text)
        return err_set(err, ERR_USAGE, name, "is not set, but others of its kind are: %s", way_out);
    if (end == text || *end || errno || *out < 0 || *out > max)
        return err_set(err, ERR_USAGE, name, "is \"%s\", no number up to %ld: %s", text, max, way_out);
    return OK;
}

/* A launcher counts when it says how many there are; a rank alone (PMIX_RANK) says nothing. */
static int find_process(char *(*get)(const char *name), struct rank *out, struct err *err) {
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        long rank, size;
        if (!get(launchers[i].size))
            continue;
        int rc = read_number(get, launchers[i].size, MAX_RANKS, &size, err);
        if (rc == OK)
            rc = read_number(get, launchers[i].rank, MAX_RANKS, &rank, err);
        if (rc == OK && rank >= size)
            rc = err_set(err, ERR_USAGE, launchers[i].rank, "is %ld, but %s is %ld: %s", rank, launchers[i].size,
                         size, way_out);
        if (rc != OK)
            return rc;
        out->rank = (int)rank;
        out->size = (int)size;
        snprintf(out->source, sizeof out->source, "%s", launchers[i].rank);
        return OK;
    }
    return OK;
}

/* Place of this task in its array, 0 of 1 without one. Ids with gaps do not tell the place. */
static int find_task(char *(*get)(const char *name), long *task, long *n_tasks, struct err *err) {
    long id, first, last, step = 1;
    *task = 0;
    *n_tasks = 1;
    if (!get("SLURM_ARRAY_TASK_ID"))
        return OK;
    int rc = read_number(get, "SLURM_ARRAY_TASK_ID", INT_MAX, &id, err);
    if (rc == OK)
        rc = read_number(get, "SLURM_ARRAY_TASK_MIN", INT_MAX, &first, err);
    if (rc == OK)
        rc = read_number(get, "SLURM_ARRAY_TASK_MAX", INT_MAX, &last, err);
    if (rc == OK)
        rc = read_number(get, "SLURM_ARRAY_TASK_COUNT", MAX_RANKS, n_tasks, err);
    if (rc == OK && get("SLURM_ARRAY_TASK_STEP"))
        rc = read_number(get, "SLURM_ARRAY_TASK_STEP", INT_MAX, &step, err);
    if (rc != OK)
        return rc;
    if (step < 1 || id < first || id > last || (id - first) % step || (last - first) / step + 1 != *n_tasks)
        return err_set(err, ERR_USAGE, "SLURM_ARRAY_TASK_ID", "is %ld of %ld tasks from %ld to %ld, which is no range "
                       "without gaps: %s", id, *n_tasks, first, last, way_out);
    *task = (id - first) / step;
    return OK;
}

int rank_find(char *(*get)(const char *name), struct rank *out, struct err *err) {
    long task, n_tasks;
    *out = (struct rank){.size = 1};
    int rc = find_process(get, out, err);
    if (rc == OK)
        rc = find_task(get, &task, &n_tasks, err);
    if (rc != OK || n_tasks == 1)
        return rc;
    if (n_tasks > MAX_RANKS / out->size)
        return err_set(err, ERR_USAGE, "SLURM_ARRAY_TASK_COUNT", "more than %d processes", MAX_RANKS);
    bool inner = out->size > 1;
    out->rank += (int)task * out->size;
    out->size *= (int)n_tasks;
    size_t n = inner ? strlen(out->source) : 0;
    snprintf(out->source + n, sizeof out->source - n, "%sSLURM_ARRAY_TASK_ID", inner ? " and " : "");
    return OK;
}

void rank_put_name(const char *output, int rank, int size, struct str *out) {
    const char *name = file_basename(output), *dot = strrchr(name, '.');
    size_t stem = dot && dot != name ? (size_t)(dot - output) : strlen(output);
    str_append(out, output, stem);
    str_printf(out, ".%d-of-%d%s", rank, size, output + stem);
}
