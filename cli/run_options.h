/* run_options.h - the options shared by the commands that run a model, and what they open: checkpoint, device, policy. */
#ifndef SPKV_CLI_RUN_OPTIONS_H
#define SPKV_CLI_RUN_OPTIONS_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#include "analyze/layout.h"
#include "engine/model.h"
#include "engine/policy.h"
#include "engine/tokenizer.h"

/* Defaults are those of run_options_default(). Strings are borrowed from argv. */
struct run_options_cli {
    const char *model;      /* a Hugging Face directory */
    const char *predictor;  /* --predictor DIR, NULL = the model's */
    const char *policy;     /* --policy, NULL = the default of the checkpoint */
    int window;             /* 0 = the default of the checkpoint or 128 */
    int sinks;              /* -1 = 0 */
    double threshold;       /* NaN = the checkpoint's */
    const char *dtype, *backend; /* "auto" */
    int threads;            /* 0 = all */
    uint64_t seed;
    int batch, chunk;
    bool dense_prefill, quiet, json;
    bool unmerged;          /* low-rank updates stay apart, to be trained */
};

/* An argp child that fills a struct run_options_cli given as its input. */
extern const struct argp run_options_argp;
extern const struct argp run_model_argp; /* the same without --policy, for commands that take several */

struct run_options_cli run_options_default(void);

/* An opened model with everything that hangs on it. */
struct loaded {
    struct checkpoint *checkpoint;
    const struct ops *ops;
    struct device *dev;
    struct model *model;
    struct policy *policy;
    struct tokenizer *tokenizer;
    const char *dtype_name; /* actually used */
};

/* Opens what the options name; notes go to stderr unless quiet. need_tokenizer: DIR/tokenizer.json must be there. */
int loaded_open(const struct run_options_cli *options, bool need_tokenizer, struct loaded *out, struct err *err);
void loaded_close(struct loaded *loaded); /* legal on a zeroed struct */

/* A head layout as the layout policy takes it, without a hash; the caller frees the arrays. */
int layout_for_policy(const struct layout *layout, struct policy_layout *out, struct err *err);

/* Resolves another policy for the same model. */
int loaded_policy(const struct loaded *loaded, const struct run_options_cli *options, const char *spec, struct policy **out,
                  struct err *err);

#endif
