#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/str.h"

int file_map_open(const char *path, struct file_map *map, struct err *err) {
    struct stat st;
    int rc = OK, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO is refused, not waited for */
    *map = (struct file_map){0};
    if (fd < 0)
        return err_errno(err, errno, path, "cannot open");
    if (fstat(fd, &st) != 0)
        rc = err_errno(err, errno, path, "cannot stat");
    else if (!S_ISREG(st.st_mode))
        rc = err_set(err, ERR_INPUT, path, "not a regular file");
    else if (st.st_size > 0) {
        void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            rc = err_errno(err, errno, path, "cannot map %lld bytes", (long long)st.st_size);
        else
            *map = (struct file_map){data, (size_t)st.st_size};
    }
    close(fd);
    return rc;
}

void file_map_close(struct file_map *map) {
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->size);
    *map = (struct file_map){0};
}

void file_map_drop(const void *data, size_t size) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)data + page - 1) / page * page, end = ((uintptr_t)data + size) / page * page;
    if (begin < end)
        madvise((void *)begin, end - begin, MADV_DONTNEED);
}

int file_read_all(const char *path, size_t max_bytes, char **data, size_t *size, struct err *err) {
    FILE *stream = fopen(path, "rb");
    size_t cap = 0, len = 0, n;
    char *buffer = NULL;
    int rc = OK;
    *data = NULL;
    *size = 0;
    if (!stream)
        return err_errno(err, errno, path, "cannot open");
    do {
        if ((rc = mem_grow(&buffer, &cap, len + 65536, 1, path, err)) != OK)
            goto out;
        n = fread(buffer + len, 1, cap - len - 1, stream);
        len += n;
        if (len > max_bytes) {
            rc = err_set(err, ERR_INPUT, path, "larger than %zu bytes: not what it should be", max_bytes);
            goto out;
        }
    } while (n > 0);
    if (ferror(stream)) {
        rc = err_errno(err, errno, path, "cannot read");
        goto out;
    }
    buffer[len] = 0;
    *data = buffer;
    *size = len;
    buffer = NULL;
out:
    free(buffer);
    fclose(stream);
    return rc;
}

bool file_exists(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0;
}

bool file_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool file_dir_is_empty(const char *path) {
    DIR *dir = opendir(path);
    int n = 0;
    if (!dir)
        return false;
    while (n <= 2 && readdir(dir))
        n++;
    closedir(dir);
    return n <= 2; /* . and .. */
}

char *file_join(const char *dir, const char *name, struct err *err) {
    struct str s = {0};
    size_t n = strlen(dir);
    str_puts(&s, dir);
    if (n > 0 && dir[n - 1] != '/')
        str_putc(&s, '/');
    str_puts(&s, name);
    if (s.failed) {
        err_memory(err, "a path", n + strlen(name));
        str_free(&s);
    }
    return s.data;
}

const char *file_basename(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

int file_make_dirs(const char *path, struct err *err) {
    char *copy = mem_strdup(path, err);
    int rc = OK;
    if (!copy)
        return ERR_MEMORY;
    for (char *p = copy + 1; rc == OK; p++) {
        char c = *p;
        if (c != '/' && c != 0)
            continue;
        *p = 0;
        if (mkdir(copy, 0777) != 0 && errno != EEXIST)
            rc = err_errno(err, errno, copy, "cannot make the directory");
        *p = c;
        if (c == 0)
            break;
    }
    if (rc == OK && !file_is_dir(path))
        rc = err_set(err, ERR_EXISTS, path, "exists and is not a directory");
    free(copy);
    return rc;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw) {
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

int file_remove_tree(const char *path, struct err *err) {
    if (!file_exists(path) || nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS) == 0)
        return OK;
    return err_errno(err, errno, path, "cannot remove");
}

int file_check_free(const char *path, bool force, struct err *err) {
    if (force || !file_exists(path))
        return OK;
    return err_set(err, ERR_EXISTS, path, "exists already (use --force to replace it, or give another name)");
}

int file_out_open(struct file_out *out, const char *path, struct err *err) {
    struct str name = {0};
    *out = (struct file_out){0};
    str_printf(&name, "%s.tmp-XXXXXX", path);
    out->temporary = name.data;
    out->path = mem_strdup(path, err);
    if (name.failed || !out->path) {
        file_out_discard(out);
        return err_memory(err, "a path", strlen(path));
    }
    int fd = mkstemp(out->temporary);
    if (fd < 0) {
        int rc = err_errno(err, errno, path, "cannot create");
        free(out->temporary);
        out->temporary = NULL;
        file_out_discard(out);
        return rc;
    }
    mode_t mask = umask(0);
    umask(mask);
    if (fchmod(fd, 0666 & ~mask) != 0 || !(out->stream = fdopen(fd, "wb"))) {
        int rc = err_errno(err, errno, path, "cannot create");
        close(fd);
        file_out_discard(out);
        return rc;
    }
    return OK;
}

/* A rename lasts only once its directory is on disk too. */
static int sync_directory(const char *path, struct err *err) {
    char *copy = mem_strdup(path, err);
    if (!copy)
        return ERR_MEMORY;
    int rc = OK, fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && fsync(fd) != 0 && errno != EINVAL)
        rc = err_errno(err, errno, path, "cannot sync the directory");
    if (fd >= 0)
        close(fd);
    free(copy);
    return rc;
}

int file_publish(const char *temporary, const char *path, struct err *err) {
    int fd = open(temporary, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, errno, temporary, "cannot open");
    int failed = fsync(fd);
    int saved = errno;
    close(fd);
    if (failed)
        return err_errno(err, saved, temporary, "cannot write to disk");
    if (rename(temporary, path) != 0)
        return err_errno(err, errno, path, "cannot rename into place");
    return sync_directory(path, err);
}

int file_out_commit(struct file_out *out, struct err *err) {
    int rc = OK;
    bool bad = ferror(out->stream) != 0;
    if (fclose(out->stream) != 0 || bad)
        rc = err_errno(err, errno ? errno : EIO, out->path, "cannot write");
    out->stream = NULL;
    if (rc == OK && (rc = file_publish(out->temporary, out->path, err)) == OK) {
        free(out->temporary);
        out->temporary = NULL;
    }
    file_out_discard(out);
    return rc;
}

void file_out_discard(struct file_out *out) {
    if (out->stream)
        fclose(out->stream);
    if (out->temporary)
        unlink(out->temporary);
    free(out->temporary);
    free(out->path);
    *out = (struct file_out){0};
}

int file_write_all(const char *path, const void *data, size_t size, struct err *err) {
    struct file_out out;
    int rc = file_out_open(&out, path, err);
    if (rc != OK)
        return rc;
    if (size)
        fwrite(data, 1, size, out.stream); /* commit sees ferror */
    return file_out_commit(&out, err);
}

int file_copy(const char *from, const char *to, struct err *err) {
    struct file_map map;
    int rc = file_map_open(from, &map, err);
    if (rc == OK)
        rc = file_write_all(to, map.data, map.size, err);
    file_map_close(&map);
    return rc;
}

static char *old_name(const char *path, struct err *err) {
    struct str name = {0};
    str_printf(&name, "%s.old", path);
    if (name.failed)
        err_memory(err, "a path", strlen(path));
    return name.data;
}

/* Two renames, for file systems that cannot exchange names. */
static int exchange_slowly(const char *temporary, const char *path, struct err *err) {
    char *old = old_name(path, err);
    int rc = old ? file_remove_tree(old, err) : ERR_MEMORY;
    if (rc == OK && (rename(path, old) != 0 || rename(temporary, path) != 0 || rename(old, temporary) != 0))
        rc = err_errno(err, errno, path, "cannot rename into place");
    free(old);
    return rc;
}

int file_publish_dir(const char *temporary, const char *path, struct err *err) {
    int rc = OK;
    if (!file_exists(path)) {
        if (rename(temporary, path) != 0)
            rc = err_errno(err, errno, path, "cannot rename into place");
    } else if (renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_EXCHANGE) != 0) {
        if (errno == EINVAL || errno == ENOSYS)
            rc = exchange_slowly(temporary, path, err);
        else
            rc = err_errno(err, errno, path, "cannot rename into place");
    }
    return rc != OK ? rc : sync_directory(path, err);
}

int file_restore_dir(const char *path, struct err *err) {
    char *old = old_name(path, err);
    int rc = old ? OK : ERR_MEMORY;
    if (rc == OK && file_exists(old) && !file_exists(path) && rename(old, path) != 0)
        rc = err_errno(err, errno, path, "cannot rename %s back", old);
    if (rc == OK)
        rc = file_remove_tree(old, err);
    free(old);
    return rc;
}

int file_lock(const char *path, const char *dir, int *fd, struct err *err) {
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*fd < 0)
        return err_errno(err, errno, path, "cannot open");
    if (flock(*fd, LOCK_EX | LOCK_NB) == 0)
        return OK;
    close(*fd);
    *fd = -1;
    return err_set(err, ERR_EXISTS, dir, "another process is writing into it: wait for it, or give another name");
}

int file_hash(const char *path, char hex[33], struct err *err) {
    struct file_map map;
    int rc = file_map_open(path, &map, err);
    if (rc != OK)
        return rc;
    hash_hex(XXH3_128bits(map.data, map.size), hex);
    file_map_close(&map);
    return OK;
}
