/* file.h - files: read-only mapping, whole reads, and outputs that appear complete or not at all. */
#ifndef SPKV_BASE_FILE_H
#define SPKV_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

/* A read-only private mapping. data is NULL for an empty file. */
struct file_map {
    const void *data;
    size_t size;
};
int file_map_open(const char *path, struct file_map *map, struct err *err);
void file_map_close(struct file_map *map); /* legal on a zeroed struct */

/* Tells the kernel that pages of a mapping are not needed any more (they stay readable). */
void file_map_drop(const void *data, size_t size);

/* Reads a whole file of at most max_bytes into memory, with a zero after the last byte. Free *data. */
int file_read_all(const char *path, size_t max_bytes, char **data, size_t *size, struct err *err);

bool file_exists(const char *path);
bool file_is_dir(const char *path);
bool file_dir_is_empty(const char *path); /* a directory with nothing in it */

/* Joins "dir" and "name" into a new string; free it. NULL and ERR_MEMORY on failure. */
char *file_join(const char *dir, const char *name, struct err *err);

/* Last component of a path, borrowed. */
const char *file_basename(const char *path);

/* Creates a directory and its parents; an existing one is fine. */
int file_make_dirs(const char *path, struct err *err);

/* Removes a file, or a directory with everything below it; what is absent is fine. */
int file_remove_tree(const char *path, struct err *err);

/* ERR_EXISTS, saying --force, when path exists and force is false. */
int file_check_free(const char *path, bool force, struct err *err);

/* An output that is written to a temporary sibling and takes its name on commit (fsync of file and directory, rename):
 * whatever happens, `path` holds the old content or the new one. */
struct file_out {
    FILE *stream;
    char *path, *temporary;
};
int file_out_open(struct file_out *out, const char *path, struct err *err);
int file_out_commit(struct file_out *out, struct err *err); /* frees; on failure the temporary is removed */
void file_out_discard(struct file_out *out);                /* legal on a zeroed or committed struct */

/* The same in one call. */
int file_write_all(const char *path, const void *data, size_t size, struct err *err);

/* fsync of a finished file and of the directory that holds it, then rename over `path`. */
int file_publish(const char *temporary, const char *path, struct err *err);

/* The bytes of one file in another, written as above. */
int file_copy(const char *from, const char *to, struct err *err);

/* Gives a finished directory (its files synced) the name `path` in one rename. A directory that had that name goes on as
 * `temporary`: remove it. Where the file system cannot exchange names, the old one is called PATH.old for a moment: a kill
 * right then leaves no `path`, which file_restore_dir() mends. */
int file_publish_dir(const char *temporary, const char *path, struct err *err);
int file_restore_dir(const char *path, struct err *err);

/* Locks a file, made where it is absent, until close(*fd) or the end of the process: who holds it is the only one to write
 * into `dir`. ERR_EXISTS at `dir` when another process has it. */
int file_lock(const char *path, const char *dir, int *fd, struct err *err);

/* XXH3-128 of a file's bytes, canonical lower-case hex. */
int file_hash(const char *path, char hex[33], struct err *err);

#endif
