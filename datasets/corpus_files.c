#include "datasets/corpus_files.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"

static bool cut_suffix(const char *name, size_t *n, const char *suffix) {
    size_t len = strlen(suffix);
    if (*n <= len || memcmp(name + *n - len, suffix, len) != 0)
        return false;
    *n -= len;
    return true;
}

/* What a name says about its content; false when it is no corpus. */
static bool known_suffix(const char *path, bool *jsonl, enum stream_format *format) {
    const char *name = file_basename(path);
    size_t n = strlen(name);
    *format = cut_suffix(name, &n, ".gz") ? STREAM_GZIP : cut_suffix(name, &n, ".zst") ? STREAM_ZSTD : STREAM_PLAIN;
    *jsonl = cut_suffix(name, &n, ".jsonl");
    return *jsonl || cut_suffix(name, &n, ".txt");
}

static int append(struct file_list *list, const char *path, uint32_t corpus, const struct listed_file *found,
                  struct err *err) {
    int rc = mem_grow(&list->items, &list->cap, list->len + 1, sizeof *list->items, "the list of corpus files", err);
    if (rc != OK)
        return rc;
    struct listed_file *item = &list->items[list->len];
    *item = *found;
    item->file.corpus = corpus;
    if (!(item->path = mem_strdup(path, err)))
        return ERR_MEMORY;
    item->file.name = item->path;
    list->len++;
    return OK;
}

/* One directory on the way down: a symbolic link back to it would never end. */
struct level {
    dev_t device;
    ino_t inode;
    const struct level *above;
};

static int add_path(struct file_list *list, const char *path, uint32_t corpus, const struct level *above, struct err *err);

static int add_directory(struct file_list *list, const char *path, uint32_t corpus, const struct level *level,
                         struct err *err) {
    for (const struct level *l = level->above; l; l = l->above)
        if (l->device == level->device && l->inode == level->inode)
            return err_set(err, ERR_INPUT, path, "a symbolic link leads back to a directory above it");
    DIR *dir = opendir(path);
    if (!dir)
        return err_errno(err, errno, path, "cannot open the directory");
    int rc = OK;
    const struct dirent *entry;
    while (rc == OK && (errno = 0, entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        char *child = file_join(path, entry->d_name, err);
        rc = child ? add_path(list, child, corpus, level, err) : ERR_MEMORY;
        free(child);
    }
    if (rc == OK && errno)
        rc = err_errno(err, errno, path, "cannot read the directory");
    closedir(dir);
    return rc;
}

/* A file or directory; `above` is NULL for what the command line names. */
static int add_path(struct file_list *list, const char *path, uint32_t corpus, const struct level *above, struct err *err) {
    struct listed_file found = {0};
    struct stat st;
    if (stat(path, &st) != 0)
        return err_errno(err, errno, path, "cannot read the corpus");
    if (S_ISDIR(st.st_mode)) {
        const struct level level = {st.st_dev, st.st_ino, above};
        return add_directory(list, path, corpus, &level, err);
    }
    bool known = known_suffix(path, &found.jsonl, &found.format) && S_ISREG(st.st_mode);
    if (!known && above) {
        list->n_skipped++;
        return OK;
    }
    if (!known)
        return err_set(err, ERR_INPUT, path, "not a corpus: expected a regular file named .txt or .jsonl, with .gz or .zst "
                       "behind where it is compressed, or a directory (rename it, or feed it through standard input "
                       "as -)");
    found.file.n_bytes = (uint64_t)st.st_size;
    return append(list, path, corpus, &found, err);
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const struct listed_file *)a)->path, ((const struct listed_file *)b)->path);
}

int file_list_add(struct file_list *list, const char *argument, uint32_t corpus, bool stdin_jsonl, struct err *err) {
    size_t first = list->len;
    uint64_t n_skipped = list->n_skipped;
    if (strcmp(argument, "-") == 0) {
        for (size_t i = 0; i < first; i++)
            if (strcmp(list->items[i].path, "-") == 0)
                return err_set(err, ERR_USAGE, "", "standard input (-) can be read only once");
        return append(list, "-", corpus, &(struct listed_file){.jsonl = stdin_jsonl}, err);
    }
    int rc = add_path(list, argument, corpus, NULL, err);
    if (rc == OK && list->len == first)
        rc = err_set(err, ERR_INPUT, argument, "the directory holds no .txt or .jsonl file (%llu others skipped)",
                     (unsigned long long)(list->n_skipped - n_skipped));
    if (rc == OK)
        qsort(list->items + first, list->len - first, sizeof *list->items, by_path);
    return rc;
}

void file_list_free(struct file_list *list) {
    for (size_t i = 0; i < list->len; i++)
        free(list->items[i].path);
    free(list->items);
    *list = (struct file_list){0};
}
