/* must.h - what may not fail in a test: the message of the error fails it. */
#ifndef SPKV_TESTS_MUST_H
#define SPKV_TESTS_MUST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"

static inline void must(int rc, const struct err *err) {
    if (rc != OK)
        fail_msg("%s: %s", err->where, err->message);
}

#endif
