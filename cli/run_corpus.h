/* run_corpus.h - binds corpora, engine and run file once, for every command that runs a corpus through a model. */
#ifndef SPKV_CLI_RUN_CORPUS_H
#define SPKV_CLI_RUN_CORPUS_H

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/run_options.h"
#include "datasets/corpus.h"
#include "datasets/sequences.h"
#include "engine/run.h"

/* Which text, cut how, and where the record goes. Strings are borrowed from argv. */
struct corpus_options_cli {
    char **corpora;          /* arguments; filled by the command */
    size_t n_corpora;
    const char *field;       /* --field, NULL = found from the first row */
    bool split_blank, stdin_jsonl;
    int max_length, stride;  /* 0 = the smaller of 4096 and the model's limit; 0 = no overlap */
    uint64_t limit;          /* sequences, 0 = all */
    uint32_t document_every; /* set by a command: of documents 0, n, 2 n, ... only, or of all but those; 0 = of all */
    bool document_rest;
    int shard, n_shards;     /* i of n; 0 of 1 */
    bool shard_given, resume, force;
};

/* An argp child that fills a struct corpus_options_cli given as its input. */
extern const struct argp corpus_options_argp;

/* argp_error() where the text cannot be run again and again as a whole: a shard, or standard input. */
void corpus_check_repeatable(const struct corpus_options_cli *corpus, const struct argp_state *state);

/* Tokens of a sequence at most: as asked for, or the default. */
int corpus_max_length(const struct corpus_options_cli *corpus, const struct loaded *loaded);

/* The sequences that run_corpus() runs; hashes of files are known. sequences_free() and corpus_close() both, also after an
 * error. */
int corpus_open_sequences(const struct corpus_options_cli *options, const struct loaded *loaded, struct corpus **corpus,
                          struct sequences **sequences, struct err *err);

/* What a recorded run came to. */
struct corpus_result {
    struct run_totals totals;
    uint64_t n_kept, n_left_window, visible_pairs,
        causal_pairs; /* sums over sequences, layers that are not sliding, KV heads */
    uint64_t n_argmax, n_answers, n_exact; /* as in struct statistics */
    uint64_t n_skipped_files, n_dropped_tails;
    double seconds;
    bool nothing_to_do;      /* --resume of a finished run */
};

/* Runs the corpora under loaded->policy and writes the run file `output`; record is a mask of enum profile_record. Progress
 * and notes go to stderr. ERR_INCOMPLETE after SIGINT or SIGTERM: what was closed can be resumed. */
int run_corpus(const struct run_options_cli *run, const struct corpus_options_cli *corpus, const struct loaded *loaded,
               unsigned record, const char *output, const char *command_line, struct corpus_result *result, struct err *err);

#endif
