/* state.h - a training run on disk, in OUT/checkpoint:
 *
 *   config.json                  the source's, with "spkv" (or, without predictor, "trained_with") and "dtype"
 *   model.safetensors            all tensors, predictor included, in the dtype asked for
 *   tokenizer.json ...           copied from the source
 *   training_state.safetensors   f32: NAME.master, NAME.m, NAME.v of every parameter
 *   training_state.json          schedule, progress, hash of the base model
 *
 * or, when the model stays frozen, spkv_config.json and spkv.safetensors (formats.md section 2: predictor and low-rank
 * updates) in place of the first three. transformers and spkv load the directory like any other.
 *
 * The directory is written as OUT/checkpoint.tmp-XXXXXX, synced, and exchanged with the old one in one rename: a kill at any
 * moment leaves the old or the new one, complete. One process at a time. */
#ifndef SPKV_TRAIN_STATE_H
#define SPKV_TRAIN_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/checkpoint.h"
#include "train/params.h"
#include "train/schedule.h"

/* Where a run stands, beside its parameters. */
struct progress_state {
    int64_t step;                    /* finished steps */
    uint64_t n_tok;                  /* tokens fed */
    uint64_t data_epoch, data_next;  /* place in the data: pass, and the next sequence in its order */
    char data_hash[33];              /* of the data and its order; a resumed run must have the same. "" = not compared */
    struct density_control control;
};

struct state_save {
    const char *out_dir;
    struct checkpoint *source;       /* what the run started from: configuration, tokenizer, base hash */
    const struct params *params;
    const struct schedule *schedule;
    const struct progress_state *progress;
    enum dtype dtype;                /* of model.safetensors and spkv.safetensors: F32 or BF16 */
    const char *protocol;            /* "pretrain", "adapt" */
    const char *version, *commit;    /* of the program */
};

/* Saves. ERR_IO on a full disk, ERR_INPUT for a predictor trained alone over low-rank updates; whatever fails, an older
 * OUT/checkpoint stays as it was. Waits for the device. The source may be OUT/checkpoint itself. */
int state_save(const struct state_save *save, struct err *err);

/* Whether there is an OUT/checkpoint to go on from. ERR_INPUT for one without its training state, which a run that began
 * anew would replace. */
int state_find(const char *out_dir, bool *found, struct err *err);

/* Restores masters and moments bit for bit, refreshes the model's handles, and fills *progress. ERR_INPUT when the state is
 * of another model (names, shapes, base hash of `source`) or schedule (see schedule_difference), naming the first
 * difference. On failure parameters may be half restored. */
int state_load(const char *out_dir, struct checkpoint *source, struct params *params, const struct schedule *schedule,
               struct progress_state *progress, struct err *err);

/* Removes what killed runs left in OUT. At the start of a run. */
int state_clean(const char *out_dir, struct err *err);

#endif
