#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int record(struct err *err, int code, const char *where, const char *format, va_list args) {
    if (!err)
        return code;
    if (err->code != OK)
        return err->code;
    err->code = code;
    snprintf(err->where, sizeof err->where, "%s", where ? where : "");
    vsnprintf(err->message, sizeof err->message, format, args);
    return code;
}

int err_set(struct err *err, int code, const char *where, const char *format, ...) {
    va_list args;
    va_start(args, format);
    code = record(err, code, where, format, args);
    va_end(args);
    return code;
}

int err_errno(struct err *err, int errno_value, const char *where, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return err_set(err, errno_value == ENOMEM ? ERR_MEMORY : ERR_IO, where, "%s: %s", text, strerror(errno_value));
}

int err_memory(struct err *err, const char *what, unsigned long long n_bytes) {
    return err_set(err, ERR_MEMORY, "", "out of memory: %llu bytes for %s", n_bytes, what);
}

int err_exit_status(int code) {
    switch (code) {
    case OK: return 0;
    case ERR_USAGE: return 2;
    case ERR_INPUT:
    case ERR_EXISTS: return 3;
    case ERR_INCOMPLETE: return 4;
    default: return 1;
    }
}

void assert_failed(const char *condition, const char *file, int line) {
    fprintf(stderr, "spkv: %s:%d: a bug in spkv: (%s) does not hold. Please report it with the command line.\n", file, line,
            condition);
    abort();
}
