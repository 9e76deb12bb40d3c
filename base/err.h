/* err.h - one error convention for the whole program.
 *
 * A function that can fail returns `int`: OK (0) or a negative `enum err_code`, and fills a `struct err` with what
 * happened, where, and what to do about it. Libraries return errors; only cli/ prints them and exits. Filling the same
 * err twice keeps the first report: the cause matters, not its consequences. */
#ifndef SPKV_BASE_ERR_H
#define SPKV_BASE_ERR_H

#include <stdarg.h>

enum err_code {
    OK = 0,
    ERR_IO = -1,         /* reading or writing failed, disk full            -> exit 1 */
    ERR_MEMORY = -2,     /* an allocation failed                            -> exit 1 */
    ERR_USAGE = -3,      /* the command line makes no sense                 -> exit 2 */
    ERR_INPUT = -4,      /* a file was read and its content refused         -> exit 3 */
    ERR_EXISTS = -5,     /* an output exists already                        -> exit 3 */
    ERR_INCOMPLETE = -6, /* interrupted, or finished with something missing -> exit 4 */
};

struct err {
    int code;
    char where[512];    /* file, and the place in it: "model.safetensors", "corpus.jsonl:17"; may be empty */
    char message[1536]; /* what is wrong and what to try next; may hold newlines */
};

/* Records an error and returns `code`, so that `return err_set(...)` reads well. `err` may be NULL; `where` may be
 * NULL or "". A second call on a filled err changes nothing and returns the first code. */
int err_set(struct err *err, int code, const char *where, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The same for an errno value: appends strerror(errno_value) to the message, code ERR_IO (ERR_MEMORY for ENOMEM). */
int err_errno(struct err *err, int errno_value, const char *where, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* ERR_MEMORY with the number of bytes that could not be had. */
int err_memory(struct err *err, const char *what, unsigned long long n_bytes);

/* The process exit status for a code: 0 ok, 1 failed, 2 usage, 3 input rejected or output exists, 4 incomplete. */
int err_exit_status(int code);

/* Our own bugs, never bad input. Stays on in every build. */
#define ASSERT(condition) ((condition) ? (void)0 : assert_failed(#condition, __FILE__, __LINE__))
void assert_failed(const char *condition, const char *file, int line) __attribute__((noreturn, cold));

#endif
