/* fake_run.h - an invented run of a small model, recorded through the profile writer: every number follows from a counter,
 * so that tests can compute it again by hand. */
#ifndef SPKV_TESTS_FAKE_RUN_H
#define SPKV_TESTS_FAKE_RUN_H

#include "analyze/profile.h"
#include "analyze/profile_writer.h"

enum { FAKE_LAYERS = 3, FAKE_HEADS = 2, FAKE_SLIDING = 1, FAKE_WINDOW = 8, FAKE_SINKS = 2, FAKE_MAX_LENGTH = 70 };
enum { FAKE_LH = FAKE_LAYERS * FAKE_HEADS, FAKE_BATCH = 3, FAKE_N_CLASSES = 8, FAKE_SOURCES = 3 };

struct fake_run {
    size_t n_sequences;
    uint32_t record;
    enum profile_score score;
    bool gates;
    size_t chunk;             /* tokens per report of gates */
    uint32_t shard, n_shards; /* n_shards 0 = 1 */
    uint64_t seed;            /* of the settings; the numbers do not depend on it */
    size_t stop_after;        /* batches computed by this process before it stops, 0 = never */
    bool abandon;             /* stop without a word, as a killed process does (else flush) */
    uint32_t segment_sequences;
    bool force, resume;
};

/* Facts of sequence i, token t. */
size_t fake_length(size_t i);
uint32_t fake_source(size_t i);
uint32_t fake_corpus(size_t i);
uint64_t fake_document(size_t i);
int32_t fake_token(size_t i, size_t t);
float fake_nll(size_t i, size_t t);
bool fake_is_argmax(size_t i, size_t t); /* every token of every third sequence */
uint8_t fake_class(size_t i, size_t t);
float fake_utility(const struct fake_run *run, size_t i, size_t layer, size_t head, size_t t);
bool fake_open(const struct fake_run *run, size_t i, size_t layer, size_t head, size_t t);
double fake_far(size_t i, size_t layer, size_t head);
double fake_distance(size_t i, size_t layer, size_t head, size_t bin);

void fake_meta(const struct fake_run *run, struct profile_meta *meta);

/* Records the run (the batches of its shard that are not there yet). *left: NULL or how many batches were left over. */
int fake_record(const char *path, const struct fake_run *run, struct err *err);

/* Records the run and opens it; a failure fails the test. */
struct profile *fake_profile(const char *path, const struct fake_run *run);

#endif
