/* corpus.h - the documents of a list of corpora, in order, from files of any size.
 *
 * A corpus argument is a .txt file (one document, or documents between blank lines), a .jsonl file (rows.h says what rows
 * mean), either of them with .gz or .zst behind, a directory of those (all levels, in bytewise order of the paths, hidden
 * names left out, other names counted), or "-" for standard input. Text is taken as bytes: line breaks stay as they are,
 * a byte order mark at the start of a file goes, invalid UTF-8 is refused with its byte offset in the decompressed file.
 * One thread. */
#ifndef SPKV_DATASETS_CORPUS_H
#define SPKV_DATASETS_CORPUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct corpus_options {
    bool split_blank;  /* a blank line (white space only) ends a document of a text file; a document is whole lines */
    bool stdin_jsonl;  /* "-" is JSON Lines, not text */
    const char *field; /* rows.h, row_fields_parse(); NULL: by the keys of each file's first row */
};

struct corpus_file {
    const char *name;  /* the path as given or found; "-" for standard input */
    uint32_t corpus;   /* index of the corpus argument */
    const char *kind;  /* "text file", "text between blank lines", or the name of the row kind; NULL until it is known */
    char hash[33];     /* XXH3-128 of the stored bytes, "" until it is known: corpus_hash_file(), or read to the end */
    uint64_t n_bytes;  /* as stored; 0 for standard input */
    uint64_t n_documents; /* read so far */
};

struct document {
    const char *text;  /* n bytes of UTF-8, borrowed until the next call; not zero-terminated */
    size_t n;
    size_t n_prompt;   /* leading bytes whose prediction is not scored, <= n; 0 = everything is scored */
    uint64_t index;    /* over all files, from 0 */
    uint32_t file;     /* index of its corpus_file */
};

struct corpus;

/* Lists the files of `n` arguments and checks that they can be read as corpora; reads none yet. ERR_USAGE for options that
 * fit no file, ERR_INPUT for unknown suffixes and directories without a corpus file, ERR_IO for what is not there. */
int corpus_open(char *const *arguments, size_t n, const struct corpus_options *options, struct corpus **out,
                struct err *err);
void corpus_close(struct corpus *corpus); /* NULL is fine */

/* The next document; *end = true after the last one. A file without any document is ERR_INPUT. */
int corpus_next(struct corpus *corpus, struct document *out, bool *end, struct err *err);

/* Borrowed until the close; fields change as reading goes on. */
size_t corpus_n_files(const struct corpus *corpus);
const struct corpus_file *corpus_file(const struct corpus *corpus, size_t i);

/* Files of other types that directories held. */
uint64_t corpus_n_skipped(const struct corpus *corpus);

/* Makes sure that the hash of file i is known, by reading the file once. Does nothing for standard input, whose hash is
 * known at its end. A file that changes between this and its reading is ERR_INPUT. */
int corpus_hash_file(struct corpus *corpus, size_t i, struct err *err);

/* Stored bytes read so far and in all; total is 0 when standard input is among the files. */
uint64_t corpus_bytes_done(const struct corpus *corpus);
uint64_t corpus_bytes_total(const struct corpus *corpus);

#endif
