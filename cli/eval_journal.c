#include "cli/eval_journal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

struct eval_journal {
    char *path;
    FILE *stream;    /* at its end */
    json_t *stored;  /* array of [key, value] that were read back */
    size_t next;     /* of those */
};

/* Lines up to the first that is not whole: the rest is lost work. *n_bytes: where they end. */
static int read_lines(struct eval_journal *j, json_t **settings, size_t *n_bytes, struct err *err) {
    char *data, *line, *end;
    size_t n;
    int rc = file_read_all(j->path, (size_t)1 << 40, &data, &n, err);
    if (rc != OK)
        return rc;
    for (line = data; (end = memchr(line, '\n', n - (size_t)(line - data))); line = end + 1) {
        json_t *value = json_loadb(line, (size_t)(end - line), 0, NULL);
        if (!value)
            break;
        if (*settings)
            json_array_append_new(j->stored, value);
        else
            *settings = value;
    }
    *n_bytes = (size_t)(line - data);
    free(data);
    return OK;
}

static int compare_settings(const char *path, const json_t *before, json_t *now, struct err *err) {
    const char *key;
    json_t *value;
    if (!json_is_object(before))
        return err_set(err, ERR_INPUT, path, "is no journal of spkv eval (remove it, or use --force)");
    json_object_foreach(now, key, value) {
        if (!json_equal(value, json_object_get(before, key)))
            return err_set(err, ERR_INPUT, path, "was begun with another \"%s\": --resume needs the same command (--force "
                           "begins anew)", key);
    }
    return OK;
}

static int go_on(struct eval_journal *j, json_t *settings, struct err *err) {
    json_t *before = NULL;
    size_t n_bytes = 0;
    int rc = read_lines(j, &before, &n_bytes, err);
    if (rc == OK)
        rc = compare_settings(j->path, before, settings, err);
    json_decref(before);
    if (rc == OK && (truncate(j->path, (off_t)n_bytes) != 0 || !(j->stream = fopen(j->path, "a"))))
        rc = err_errno(err, errno, j->path, "cannot write");
    return rc;
}

static int write_line(struct eval_journal *j, const json_t *value, struct err *err) {
    errno = 0;
    if (json_dumpf(value, j->stream, JSON_COMPACT) != 0 || fputc('\n', j->stream) == EOF || fflush(j->stream) != 0)
        return err_errno(err, errno ? errno : EIO, j->path, "cannot write");
    return OK;
}

static int begin(struct eval_journal *j, const json_t *settings, bool force, struct err *err) {
    int rc = OK;
    if (!force && file_exists(j->path))
        return err_set(err, ERR_EXISTS, j->path, "is there from an interrupted run: --resume goes on with it, --force "
                       "begins anew");
    if (!(j->stream = fopen(j->path, "w")))
        rc = err_errno(err, errno, j->path, "cannot write");
    return rc == OK ? write_line(j, settings, err) : rc;
}

int eval_journal_open(const char *path, json_t *settings, bool resume, bool force, struct eval_journal **out,
                      struct err *err) {
    struct eval_journal *j = mem_alloc(1, sizeof *j, "a journal", err);
    int rc = ERR_MEMORY;
    *out = NULL;
    if (!j)
        return rc;
    if ((j->path = mem_strdup(path, err)) && (j->stored = json_array()))
        rc = resume && file_exists(path) ? go_on(j, settings, err) : begin(j, settings, force, err);
    if (rc == OK)
        *out = j;
    else
        eval_journal_close(j, false);
    return rc;
}

void eval_journal_close(struct eval_journal *j, bool remove_file) {
    if (!j)
        return;
    if (j->stream)
        fclose(j->stream);
    if (remove_file)
        remove(j->path);
    json_decref(j->stored);
    free(j->path);
    free(j);
}

/* What follows another key is of no use: it is asked for in order. */
json_t *eval_journal_take(struct eval_journal *j, const char *key) {
    const json_t *pair = json_array_get(j->stored, j->next);
    const char *stored_key = json_string_value(json_array_get(pair, 0));
    if (!stored_key || strcmp(stored_key, key) != 0)
        return NULL;
    j->next++;
    return json_incref(json_array_get(pair, 1));
}

int eval_journal_put(struct eval_journal *j, const char *key, json_t *value, struct err *err) {
    json_t *pair = json_pack("[s, o]", key, value);
    int rc = pair ? write_line(j, pair, err) : err_set(err, ERR_MEMORY, "", "out of memory for a result");
    json_decref(pair);
    return rc;
}
