/* rank.h - which one of many processes this is, when an engine that starts processes says so: Open MPI, MPICH and others
 * that speak PMI, a step of Slurm (srun), an array of Slurm. Pure functions. */
#ifndef SPKV_BASE_RANK_H
#define SPKV_BASE_RANK_H

#include "base/err.h"
#include "base/str.h"

struct rank {
    int rank, size;  /* 0 of 1 when nobody says anything */
    char source[96]; /* the variables that say so: "OMPI_COMM_WORLD_RANK", "" = none */
};

/* get: getenv(), or what a test puts in its place. Processes within the tasks of an array count on: task 2 of an array with
 * 4 processes each begins at rank 8. ERR_USAGE when variables contradict each other. */
int rank_find(char *(*get)(const char *name), struct rank *out, struct err *err);

/* The file of one process: "run.h5" becomes "run.2-of-8.h5". */
void rank_put_name(const char *output, int rank, int size, struct str *out);

#endif
