/* lines.h - a corpus file as lines or as one text: valid UTF-8, without a byte order mark, in memory that grows with the
 * longest line only. One thread. */
#ifndef SPKV_DATASETS_LINES_H
#define SPKV_DATASETS_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "datasets/stream.h"

/* The longest line, and the longest text read at once. Longer ones are refused. */
#define LINES_MAX_BYTES ((size_t)INT32_MAX)

struct lines;

/* Takes over `stream`, also on failure. `name` (borrowed until the close) stands in errors. */
int lines_open(struct stream *stream, const char *name, struct lines **out, struct err *err);
void lines_close(struct lines *lines); /* closes the stream; NULL is fine */

/* The next line with its line break (the last line may have none); *text is NULL at the end. Borrowed until the next
 * call. ERR_INPUT naming the byte offset in the decompressed file where the text is not UTF-8. */
int lines_next(struct lines *lines, const char **text, size_t *n, struct err *err);

/* Everything that is left; *n is 0 when nothing is. */
int lines_rest(struct lines *lines, const char **text, size_t *n, struct err *err);

bool lines_is_blank(const char *text, size_t n); /* nothing but ASCII white space */
uint64_t lines_number(const struct lines *lines); /* of the last line returned, from 1 */
const struct stream *lines_stream(const struct lines *lines);

#endif
