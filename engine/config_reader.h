/* config_reader.h - the parts of config.json's reader: typed reads with a sticky error, and RoPE. Used by engine/config*.c
 * only. */
#ifndef SPKV_ENGINE_CONFIG_READER_H
#define SPKV_ENGINE_CONFIG_READER_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/config.h"

/* An object being read. Once rc is not OK every further read does nothing, so that a run of reads is checked at its end. */
struct config_reader {
    const json_t *object;
    const char *where;
    struct err *err;
    int rc;
};

/* Absent keys leave *out as it was. An explicit null is refused, as transformers does for these keys. */
void config_int(struct config_reader *r, const char *key, int min, int max, int *out);
void config_real(struct config_reader *r, const char *key, double min, double max, double *out);
void config_bool(struct config_reader *r, const char *key, bool *out);
void config_text(struct config_reader *r, const char *key, const char **out);

/* True when the key is there with the value null. */
bool config_is_null(const struct config_reader *r, const char *key);

/* Records ERR_INPUT at r->where, unless an error came before. */
void config_refuse(struct config_reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Fills rope[] and n_rope of `out`, whose type and max_positions are known. `theta` is the type's default base;
 * `local_theta` that of its sliding layers where they have RoPE parameters of their own (Gemma 3), else 0. */
void config_rope(struct config_reader *r, double theta, double local_theta, struct model_config *out);

#endif
