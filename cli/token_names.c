#include "cli/token_names.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

/* Tokens that are no text by themselves (bytes of a character) show as "\xE2". */
static void put(const void *self, int32_t id, struct str *out) {
    const struct tokenizer *t = self;
    size_t n = 0;
    const char *bytes = id >= 0 && (size_t)id < tokenizer_n_vocab(t) ? tokenizer_token_bytes(t, id, &n) : "";
    if (n == 0) {
        str_printf(out, "[%d]", id);
        return;
    }
    for (size_t i = 0; i < n;) {
        size_t valid = utf8_first_invalid(bytes + i, n - i);
        str_append(out, bytes + i, valid);
        i += valid;
        if (i < n)
            str_printf(out, "\\x%02X", (unsigned char)bytes[i++]);
    }
}

static char *tokenizer_path(const char *path, struct err *err) {
    return file_is_dir(path) ? file_join(path, "tokenizer.json", err) : mem_strdup(path, err);
}

int token_names_open(const struct profile *profile, const char *path, struct token_names *out, struct err *err) {
    const struct profile_meta *m = profile_meta(profile);
    struct tokenizer *t = NULL;
    struct err ignored = {0};
    *out = (struct token_names){0};
    if (!profile_has(profile, PROFILE_TOKEN_ID))
        return OK;
    char *file = tokenizer_path(path ? path : m->model_path, err);
    int rc = file ? tokenizer_open(file, &t, path ? err : &ignored) : ERR_MEMORY;
    if (rc == OK && strcmp(tokenizer_hash(t), m->tokenizer_hash) != 0) {
        tokenizer_free(t);
        t = NULL;
        if (path)
            rc = err_set(err, ERR_INPUT, file, "is not the tokenizer that %s was recorded with", profile_path(profile));
    }
    free(file);
    if (rc != OK && (path || !file))
        return rc;
    *out = (struct token_names){t, {t, t ? put : NULL}};
    return OK;
}

void token_names_close(struct token_names *names) {
    tokenizer_free(names->tokenizer);
    *names = (struct token_names){0};
}
