#include "cli/train_data.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/mem.h"
#include "datasets/sequences.h"
#include "train/trainer.h"

/* Corpora opened together as one source. */
struct reading {
    char **paths; /* (n) */
    size_t n;
    struct corpus *corpus;
    struct sequences *sequences;
};

static void reading_close(struct reading *r) {
    sequences_free(r->sequences);
    corpus_close(r->corpus);
    for (size_t i = 0; i < r->n && r->paths; i++)
        free(r->paths[i]);
    free(r->paths);
}

static const char *path_of(const json_t *entry) {
    const char *path = json_string_value(json_is_object(entry) ? json_object_get(entry, "path") : entry);
    return path ? path : "";
}

/* Entries first .. first + n - 1 of an array of paths or of objects with a "path". */
static int reading_open(const struct train_run *run, const struct tokenizer *tokenizer, int context_len, const json_t *array,
                        size_t first, size_t n, struct reading *r, struct err *err) {
    struct corpus_options options = {.split_blank = run->split_blank, .field = run->field};
    struct sequence_options cut = {.max_length = (size_t)context_len};
    *r = (struct reading){.paths = mem_alloc(n, sizeof *r->paths, "corpora", err), .n = n};
    int rc = r->paths ? OK : ERR_MEMORY;
    for (size_t i = 0; rc == OK && i < n; i++)
        if (!(r->paths[i] = mem_strdup(path_of(json_array_get(array, first + i)), err)))
            rc = ERR_MEMORY;
    if (rc == OK)
        rc = corpus_open(r->paths, n, &options, &r->corpus, err);
    return rc == OK ? sequences_create(r->corpus, tokenizer, &cut, &r->sequences, err) : rc;
}

static int add(const struct train_run *run, const struct tokenizer *tokenizer, int context_len, size_t first, size_t n,
               double weight, struct batches *batches, struct err *err) {
    struct reading r;
    int rc = reading_open(run, tokenizer, context_len, run->corpora, first, n, &r, err);
    char name[512];
    snprintf(name, sizeof name, "%s%s", path_of(json_array_get(run->corpora, first)), n > 1 ? " and the others" : "");
    if (rc == OK) {
        struct source source = sequences_source(r.sequences);
        rc = batches_add(batches, name, weight, &source, err);
    }
    reading_close(&r);
    return rc;
}

static bool has_weights(const json_t *corpora) {
    size_t i;
    const json_t *entry;
    json_array_foreach(corpora, i, entry)
        if (json_has(entry, "weight"))
            return true;
    return false;
}

int train_data_read(const struct train_run *run, const struct schedule *s, const struct tokenizer *tokenizer, int vocab_size,
                    struct batches **out, struct err *err) {
    struct batches_options options = trainer_batches(s, vocab_size);
    size_t n = json_array_size(run->corpora);
    struct batches *batches;
    int rc = batches_create(&options, &batches, err);
    if (rc == OK && !has_weights(run->corpora))
        rc = add(run, tokenizer, s->context_len, 0, n, 1, batches, err);
    else
        for (size_t i = 0; rc == OK && i < n; i++) {
            double weight = 1;
            rc = json_get_real(json_array_get(run->corpora, i), "weight", 1e-9, 1e9, &weight, "the weight of a corpus", err);
            if (rc == OK)
                rc = add(run, tokenizer, s->context_len, i, 1, weight, batches, err);
        }
    if (rc == OK && s->answer_only && !batches_have_answers(batches))
        rc = err_set(err, ERR_INPUT, path_of(json_array_get(run->corpora, 0)),
                     "no corpus has rows with a prompt and an answer, so that there is no loss on answers only");
    if (rc != OK) {
        batches_free(batches);
        batches = NULL;
    }
    *out = batches;
    return rc;
}

int train_data_read_eval(const struct train_run *run, const struct schedule *s, const struct tokenizer *tokenizer,
                         int vocab_size, struct pieces **out, struct err *err) {
    size_t n = json_array_size(run->eval);
    struct reading r;
    *out = NULL;
    if (n == 0)
        return OK;
    int rc = reading_open(run, tokenizer, s->context_len, run->eval, 0, n, &r, err);
    if (rc == OK) {
        struct source source = sequences_source(r.sequences);
        rc = pieces_read(&source, path_of(json_array_get(run->eval, 0)), vocab_size, (size_t)run->eval_sequences, out, err);
    }
    if (rc == OK && pieces_count(*out) == 0)
        rc = err_set(err, ERR_INPUT, path_of(json_array_get(run->eval, 0)), "the held-out text holds no two tokens");
    reading_close(&r);
    return rc;
}
