/* nfc.h - Unicode normalisation form C by utf8proc, with a scan that copies what is normal already. The Hugging Face library
 * normalises with Unicode 9: code points that gained a combining class or a composition later are left alone, so that ids
 * agree. Immutable after creation. */
#ifndef SPKV_ENGINE_NFC_H
#define SPKV_ENGINE_NFC_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/str.h"

struct nfc;

int nfc_create(struct nfc **out, struct err *err);
void nfc_free(struct nfc *nfc);

/* Appends the normal form of n bytes of valid UTF-8 to *out, and *changed = true; text that is normal already is not copied
 * and *changed = false. *origin (normalizer.h) is carried along. */
int nfc_run(const struct nfc *nfc, const char *text, size_t n, struct str *out, size_t *origin, bool *changed,
            struct err *err);

#endif
