#!/bin/sh
# Profiles a corpus with several processes of mpirun (Open MPI or MPICH), each of which takes its batches, and joins what they
# wrote. On one machine:
#   scripts/jobs/profile-mpirun.sh 4 path/to/model corpus/ run.h5
# On several: name them for mpirun (--hostfile) in MPIRUN_FLAGS; model, corpus and result lie on a shared file system.
# Running it again goes on where it was stopped.
set -eu
[ $# -ge 4 ] || { echo "usage: $0 PROCESSES MODEL CORPUS RUN.h5 [OPTION of spkv profile...]" >&2; exit 2; }
processes=$1 model=$2 corpus=$3 run=$4
shift 4
spkv=${SPKV:-spkv}

# shellcheck disable=SC2086 # flags are words
mpirun ${MPIRUN_FLAGS:-} -np "$processes" "$spkv" profile "$model" "$corpus" -o "$run" --resume "$@"
# The names are those that spkv gives to the shards of run.h5.
"$spkv" merge "${run%.h5}".*-of-"$processes".h5 -o "$run"
"$spkv" check "$run"
