#include "engine/shards.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"

enum { MAX_INDEX_BYTES = 32 << 20 };

/* A line of weight_map; both borrowed from the JSON. */
struct placement {
    const char *name, *shard;
};

bool shard_name_is_plain(const char *name) {
    static const char suffix[] = ".safetensors";
    size_t n = strlen(name), n_suffix = sizeof suffix - 1;
    return n > n_suffix && name[0] != '.' && !strchr(name, '/') && strcmp(name + n - n_suffix, suffix) == 0;
}

static int by_shard(const void *a, const void *b) {
    const struct placement *x = a, *y = b;
    int order = strcmp(x->shard, y->shard);
    return order ? order : strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static int read_placements(const json_t *map, const char *where, struct placement *out, struct err *err) {
    const char *name, *shard;
    json_t *value;
    size_t i = 0;
    json_object_foreach((json_t *)(uintptr_t)map, name, value) {
        if (!(shard = json_string_value(value)))
            return err_set(err, ERR_INPUT, where, "\"weight_map\" gives no file name for %s: fetch the index again", name);
        if (!shard_name_is_plain(shard))
            return err_set(err, ERR_INPUT, where,
                           "\"weight_map\" places %s in \"%s\", which is no plain file name ending in .safetensors: "
                           "shards must lie beside the index", name, shard);
        out[i++] = (struct placement){name, shard};
    }
    qsort(out, i, sizeof *out, by_shard);
    return OK;
}

/* Opens the shard of placements[0 .. n), all in the same one, and takes their tensors. */
static int take_shard(const char *dir, const struct placement *placements, size_t n, struct shards *out, struct err *err) {
    struct safetensors *file = &out->files[out->n_files];
    char *path = file_join(dir, placements->shard, err);
    int rc = path ? OK : ERR_MEMORY;
    if (rc == OK && !file_exists(path))
        rc = err_set(err, ERR_INPUT, path,
                     "no such file, but the index places %zu tensors in it: fetch all shards of the model", n);
    if (rc == OK)
        rc = safetensors_open(path, file, err);
    if (rc == OK)
        out->n_files++;
    for (size_t i = 0; rc == OK && i < n; i++) {
        const struct tensor *tensor = safetensors_find(file, placements[i].name);
        if (!tensor)
            rc = err_set(err, ERR_INPUT, path, "tensor %s is not here, where the index places it: fetch index and shards of "
                                               "the same model", placements[i].name);
        else
            out->tensors[out->n_tensors++] = *tensor;
    }
    free(path);
    return rc;
}

static int take_index(const char *dir, const char *index_path, const json_t *index, struct shards *out, struct err *err) {
    json_t *map = NULL;
    struct placement *placements = NULL;
    int rc = json_get_object(index, "weight_map", &map, index_path, err);
    size_t n = json_object_size(map), end;
    if (rc == OK && n == 0)
        rc = err_set(err, ERR_INPUT, index_path, "\"weight_map\" is missing or empty: fetch the index again");
    if (rc != OK)
        return rc;
    placements = mem_alloc(n, sizeof *placements, "weight map", err);
    out->tensors = mem_alloc(n, sizeof *out->tensors, "tensor list", err);
    out->files = mem_alloc(n, sizeof *out->files, "shard list", err);
    if (!placements || !out->tensors || !out->files)
        rc = ERR_MEMORY;
    else
        rc = read_placements(map, index_path, placements, err);
    for (size_t begin = 0; rc == OK && begin < n; begin = end) {
        for (end = begin; end < n && strcmp(placements[end].shard, placements[begin].shard) == 0;)
            end++;
        rc = take_shard(dir, placements + begin, end - begin, out, err);
    }
    if (rc == OK)
        qsort(out->tensors, out->n_tensors, sizeof *out->tensors, by_name);
    free(placements);
    return rc;
}

static int take_single(const char *path, struct shards *out, struct err *err) {
    int rc;
    out->files = mem_alloc(1, sizeof *out->files, "file list", err);
    if (!out->files)
        return ERR_MEMORY;
    if ((rc = safetensors_open(path, out->files, err)) != OK)
        return rc;
    out->n_files = 1;
    out->n_tensors = out->files->n_tensors;
    out->tensors = mem_alloc(out->n_tensors, sizeof *out->tensors, "tensor list", err);
    if (!out->tensors)
        return ERR_MEMORY;
    memcpy(out->tensors, out->files->tensors, out->n_tensors * sizeof *out->tensors);
    return OK;
}

int shards_open(const char *dir, struct shards *out, struct err *err) {
    char *single = file_join(dir, "model.safetensors", err);
    char *index_path = file_join(dir, "model.safetensors.index.json", err);
    json_t *index = NULL;
    int rc = single && index_path ? OK : ERR_MEMORY;
    *out = (struct shards){0};
    if (rc == OK && file_exists(single))
        rc = take_single(single, out, err);
    else if (rc == OK && !file_exists(index_path))
        rc = err_set(err, ERR_INPUT, dir,
                     "neither model.safetensors nor model.safetensors.index.json is here: fetch the weights, or convert "
                     "them to safetensors (model.save_pretrained() of transformers)");
    else if (rc == OK && (rc = json_read_object(index_path, MAX_INDEX_BYTES, &index, err)) == OK)
        rc = take_index(dir, index_path, index, out, err);
    json_decref(index);
    free(single);
    free(index_path);
    if (rc != OK)
        shards_close(out);
    return rc;
}

void shards_close(struct shards *shards) {
    for (size_t i = 0; i < shards->n_files; i++)
        safetensors_close(&shards->files[i]);
    free(shards->files);
    free(shards->tensors);
    *shards = (struct shards){0};
}
