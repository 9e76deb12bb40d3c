/* state_internal.h - what saving and loading of a run share. Used by train/state*.c only. */
#ifndef SPKV_TRAIN_STATE_INTERNAL_H
#define SPKV_TRAIN_STATE_INTERNAL_H

#include <jansson.h>

#include "engine/safetensors_write.h"
#include "train/state.h"

#define STATE_JSON "training_state.json"
#define STATE_TENSORS "training_state.safetensors"

/* training_state.json. */
struct saved_run {
    struct schedule schedule;
    struct progress_state progress;
    char base_hash[33]; /* of the frozen model, "" when everything is trained */
};

/* NULL when memory runs out. Release with json_decref(). */
json_t *saved_run_json(const struct saved_run *run);
int saved_run_read(const char *path, struct saved_run *out, struct err *err);

/* The arrays of a parameter in training_state.safetensors: NAME.master, NAME.m, NAME.v. */
enum { STATE_PARTS = 3, STATE_NAME_BYTES = 160 };
float *state_part(const struct param *p, int part);
void state_plan_part(const struct param *p, int part, char name[STATE_NAME_BYTES], struct tensor_plan *out);

#endif
