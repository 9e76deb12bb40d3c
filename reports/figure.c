#include "reports/figure.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "reports/text.h"

extern char **environ;

static void put_header(const struct figure *f, struct str *out) {
    str_puts(out, f->x_name);
    if (f->from)
        str_puts(out, ",from,to");
    if (f->all)
        str_puts(out, ",all");
    for (size_t k = 0; k < f->n_series; k++)
        if (f->series_names)
            str_printf(out, ",%s", f->series_names[k]);
        else
            str_printf(out, ",layer_%zu", k);
    str_putc(out, '\n');
}

static void put_value(struct str *out, double x) {
    str_putc(out, ',');
    text_put_double(out, x);
}

/* A text that gnuplot's reader cannot stumble over. */
static void put_plain(struct str *out, const char *text) {
    struct str clean = {0};
    text_put_clean(&clean, text);
    str_puts(out, ",\"");
    for (const char *p = str_text(&clean); *p; p++)
        str_putc(out, *p == '"' ? '\'' : *p);
    str_putc(out, '"');
    out->failed |= clean.failed;
    str_free(&clean);
}

/* Numbers first: they are what the script counts columns for. */
static void put_points(const struct figure *f, struct str *out) {
    str_printf(out, "group_number,%s,%s,%s_low,%s_high,group,name\n", f->x_name, f->y_name, f->y_name, f->y_name);
    for (size_t i = 0; i < f->n_points; i++) {
        const struct figure_point *p = &f->points[i];
        str_printf(out, "%zu", p->group);
        put_value(out, p->x);
        put_value(out, p->y);
        put_value(out, p->low);
        put_value(out, p->high);
        put_plain(out, f->groups[p->group]);
        put_plain(out, p->name);
        str_putc(out, '\n');
    }
}

void figure_put_csv(const struct figure *f, struct str *out) {
    if (f->kind == FIGURE_POINTS) {
        put_points(f, out);
        return;
    }
    put_header(f, out);
    for (size_t i = 0; i < f->n_x; i++) {
        text_put_double(out, f->x[i]);
        if (f->from) {
            put_value(out, f->from[i]);
            put_value(out, f->to[i]);
        }
        if (f->all)
            put_value(out, f->all[i]);
        for (size_t k = 0; k < f->n_series; k++)
            put_value(out, f->series[k * f->n_x + i]);
        str_putc(out, '\n');
    }
}

/* DIR/STEM.EXTENSION in new memory. */
static char *sibling(const char *dir, const char *stem, const char *extension, struct err *err) {
    struct str s = {0};
    str_printf(&s, "%s/%s.%s", dir, stem, extension);
    if (s.failed) {
        err_memory(err, "a path", strlen(dir));
        str_free(&s);
    }
    return s.data;
}

static int write_text(const char *dir, const char *stem, const char *extension, const struct str *text, struct err *err) {
    char *path = sibling(dir, stem, extension, err);
    if (!path)
        return ERR_MEMORY;
    int rc = text->failed ? err_memory(err, "a figure", text->len) : file_write_all(path, str_text(text), text->len, err);
    free(path);
    return rc;
}

/* Starts `gnuplot -d SCRIPT` in dir, its output into dir/LOG. An errno value, 0 when it runs. */
static int start(const char *gnuplot, const char *dir, const char *script, const char *log, pid_t *pid) {
    char flag[] = "-d"; /* default settings: no init file of the user */
    char *argv[] = {(char *)(uintptr_t)gnuplot, flag, (char *)(uintptr_t)script, NULL};
    posix_spawn_file_actions_t actions;
    int error = posix_spawn_file_actions_init(&actions);
    if (error)
        return error;
    if ((error = posix_spawn_file_actions_addchdir_np(&actions, dir)) == 0 &&
        (error = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)) == 0 &&
        (error = posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_TRUNC, 0666)) == 0 &&
        (error = posix_spawn_file_actions_adddup2(&actions, 1, 2)) == 0)
        error = posix_spawnp(pid, gnuplot, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

/* The last line of a log that says something; "" when none does. */
static void last_words(const char *path, char *out, size_t cap) {
    char *text = NULL;
    size_t n = 0;
    out[0] = 0;
    if (file_read_all(path, 1 << 16, &text, &n, NULL) != OK)
        return;
    for (char *line = text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        if (line[strspn(line, " \t^")])
            snprintf(out, cap, "%s", line + strspn(line, " \t"));
    }
    free(text);
}

static void run_gnuplot(const struct figure *f, const char *dir, const char *gnuplot, const char *log_path,
                        struct figure_result *result) {
    char script[96], log[96], words[240];
    int status = 0;
    pid_t pid;
    snprintf(script, sizeof script, "%s.gp", f->name);
    snprintf(log, sizeof log, "%s.log", f->name);
    int error = start(gnuplot, dir, script, log, &pid);
    if (error == ENOENT) {
        snprintf(result->notice, sizeof result->notice,
                 "%s was not found (Debian: gnuplot-nox), so %s was not drawn; its data and script are there", gnuplot,
                 f->name);
    } else if (error) {
        snprintf(result->notice, sizeof result->notice, "%s could not be started (%s): %s was not drawn", gnuplot,
                 strerror(error), f->name);
    } else {
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            continue;
        result->drawn = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        if (!result->drawn) {
            last_words(log_path, words, sizeof words);
            snprintf(result->notice, sizeof result->notice, "%s failed to draw %s: %s", gnuplot, f->name, words);
        }
    }
    file_remove_tree(log_path, NULL);
}

/* Brings what gnuplot wrote to the disk, as our own files are. */
static int sync_pictures(const struct figure *f, const char *dir, struct err *err) {
    static const char *const endings[] = {".png", ".svg", "_plain.svg"};
    int rc = OK;
    for (size_t i = 0; rc == OK && i < sizeof endings / sizeof *endings; i++) {
        struct str path = {0};
        str_printf(&path, "%s/%s%s", dir, f->name, endings[i]);
        int fd = path.failed ? -1 : open(path.data, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fsync(fd) != 0)
            rc = err_errno(err, path.failed ? ENOMEM : errno, str_text(&path), "cannot write to disk");
        if (fd >= 0)
            close(fd);
        str_free(&path);
    }
    return rc;
}

static bool name_is_plain(const char *name) {
    return *name && strlen(name) < 64 && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") == strlen(name);
}

int figure_write(const struct figure *f, const char *dir, const char *gnuplot, struct figure_result *result,
                 struct err *err) {
    struct str csv = {0}, script = {0};
    char *log = sibling(dir, f->name, "log", err);
    int rc = log ? OK : ERR_MEMORY;
    ASSERT(name_is_plain(f->name));
    *result = (struct figure_result){0};
    figure_put_csv(f, &csv);
    figure_put_script(f, &script);
    if (rc == OK)
        rc = write_text(dir, f->name, "csv", &csv, err);
    if (rc == OK)
        rc = write_text(dir, f->name, "gp", &script, err);
    if (rc == OK)
        run_gnuplot(f, dir, gnuplot ? gnuplot : "gnuplot", log, result);
    if (rc == OK && result->drawn)
        rc = sync_pictures(f, dir, err);
    free(log);
    str_free(&csv);
    str_free(&script);
    return rc;
}
