/* Runs a fuzz target over stored inputs without libFuzzer: every file named on the command line, and every file in the
 * directories named there. A crash or a sanitizer's report is the failure; an unreadable or empty selection is one too. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* From memory of exactly the file's size, so that a read beyond it is seen. */
static int replay_file(const char *path) {
    char *text;
    size_t size;
    struct err err = {0};
    if (file_read_all(path, (size_t)1 << 30, &text, &size, &err) != OK) {
        fprintf(stderr, "%s: %s\n", err.where, err.message);
        return -1;
    }
    uint8_t *data = malloc(size ? size : 1);
    if (!data) {
        free(text);
        return -1;
    }
    memcpy(data, text, size);
    free(text);
    printf("%s\n", path);
    fflush(stdout);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 0;
}

/* The number of inputs run, -1 for a failure. */
static int replay_dir(const char *path) {
    DIR *dir = opendir(path);
    int n = 0;
    if (!dir) {
        perror(path);
        return -1;
    }
    for (struct dirent *entry; n >= 0 && (entry = readdir(dir));) {
        if (entry->d_name[0] == '.')
            continue;
        char *name = file_join(path, entry->d_name, NULL);
        n = name && replay_file(name) == 0 ? n + 1 : -1;
        free(name);
    }
    closedir(dir);
    return n;
}

int main(int argc, char **argv) {
    int total = 0;
    for (int i = 1; i < argc; i++) {
        int n = file_is_dir(argv[i]) ? replay_dir(argv[i]) : replay_file(argv[i]) == 0 ? 1 : -1;
        if (n < 0)
            return EXIT_FAILURE;
        total += n;
    }
    printf("%d inputs\n", total);
    return total > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
