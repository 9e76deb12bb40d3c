/* corpus_files.h - which files a list of corpus arguments stands for. Used by corpus.c. */
#ifndef SPKV_DATASETS_CORPUS_FILES_H
#define SPKV_DATASETS_CORPUS_FILES_H

#include "datasets/corpus.h"
#include "datasets/stream.h"

struct listed_file {
    struct corpus_file file;     /* .name is `path` */
    char *path;                  /* owned */
    bool jsonl;
    enum stream_format format;
};

struct file_list { /* a zeroed struct is empty */
    struct listed_file *items;
    size_t len, cap;
    uint64_t n_skipped;
};

/* Appends the files of one argument, sorted. */
int file_list_add(struct file_list *list, const char *argument, uint32_t corpus, bool stdin_jsonl, struct err *err);
void file_list_free(struct file_list *list);

#endif
