/* session.h - a batch of sequences and its KV cache, over a shared immutable model. Not thread-safe: one caller at a time.
 * Free every session before its model and its policy.
 *
 * A session has n_slots places. Each holds one sequence, which is fed in steps of any size; gates act from the first token
 * on (prefill and decode are the same thing), unless dense_prefill says otherwise. What "the same result" means across step
 * sizes: kept sets equal up to gates within 1e-4 of the threshold, losses within 1e-5 nat in f32. */
#ifndef SPKV_ENGINE_SESSION_H
#define SPKV_ENGINE_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/model.h"
#include "engine/policy.h"

struct session_options {
    int n_slots;
    int max_len;                  /* longest sequence, tokens; at most the model's limit */
    size_t max_rows;              /* most tokens fed in one step, over all slots */
    const struct policy *policy;  /* borrowed */
    bool dense_prefill;           /* gates are noted but do not act until session_end_prefill() */
    bool attention_stats;         /* collect far, sink and distance sums */
    bool future_attention;        /* collect what each token gets from queries outside its window */
    bool scores_given;            /* session_set_scores() will be called for every sequence, as foresight demands */
    bool value_norms;             /* ... and the norms of what values become behind the output projection */
};

struct session;

int session_create(const struct model *model, const struct session_options *options, struct session **out, struct err *err);
void session_free(struct session *s);

/* Empties a slot for a new sequence; sequence_id keys random gates and sampling. */
void session_reset(struct session *s, int slot, uint64_t sequence_id);

/* With scores_given: the scores of the n_tok tokens that the slot will be fed, (n_layers, n_tok, n_kv_heads) host;
 * after its reset, before it is fed. Waits. */
int session_set_scores(struct session *s, int slot, const float *scores, size_t n_tok, struct err *err);
/* A slot that is empty since its reset goes on from where `from` is: same tokens fed, same cache, same sequence_id. Not in a
 * dense prefill (session_end_prefill() first), nor with attention_stats or future_attention. */
int session_fork(struct session *s, int from, int to, struct err *err);

/* The next tokens of n_seq different slots. */
struct feed {
    int n_seq;
    const int *slots;              /* (n_seq) */
    const int32_t *const *tokens;  /* (n_seq) host; ids below vocab_size (ERR_INPUT otherwise) */
    const int *n_tok;              /* (n_seq), each >= 1; sum at most max_rows */
};

/* Runs one step. ERR_INPUT when a sequence would pass max_len. Device work may still run on return. */
int session_feed(struct session *s, const struct feed *feed, struct err *err);

/* Feeds a whole prompt to one slot in steps of at most `chunk` tokens. */
int session_prefill(struct session *s, int slot, const int32_t *tokens, size_t n_tok, size_t chunk, struct err *err);

/* Ends a dense prefill: what the gates closed leaves the slot's cache, and gates act from now on. Slots that are fed in one
 * step must all have ended their prefill, or none. Does nothing without dense_prefill. */
void session_end_prefill(struct session *s, int slot);

/* Of the last step: loss of target[r] after row r in nat, NaN where target[r] is -1; rows in feed order. is_argmax (n_rows),
 * or NULL: 1 where greedy sampling would take target[r], else 0. Waits. */
int session_nll(struct session *s, const int32_t *target, float *nll, uint8_t *is_argmax, struct err *err);

/* Of the last step: logits of the last row of each fed sequence, (n_seq, vocab_size) f32. Borrowed: valid until the next
 * call on the session. Waits. */
int session_logits(struct session *s, const float **logits, struct err *err);

struct sampling {
    float temperature; /* 0 = greedy */
    int top_k;         /* 0 = all */
    float top_p;       /* 1 = all */
    uint64_t seed;
};

/* Of the last step: the next token of each fed sequence, (n_seq). Waits. */
int session_sample(struct session *s, const struct sampling *sampling, int32_t *ids, struct err *err);

/* Of the last step: utilities (n_layers, n_rows, n_kv_heads) f32 and gates (the same shape) in host memory. Borrowed until
 * the next call. Waits. */
int session_gates(struct session *s, const float **utility, const uint8_t **open, struct err *err);

/* Tokens fed to a slot since its reset. */
int session_length(const struct session *s, int slot);
/* ... and tokens that it still takes. */
int session_room(const struct session *s, int slot);

/* The cache, for counters (kv_cache_read_counts) and tests. */
struct kv_cache *session_cache(struct session *s);

/* Attention sums of a slot since its reset, host memory (n_layers, n_kv_heads[, n_bins]); NULL without attention_stats.
 * Waits for nothing: complete after session_nll, session_gates or session_logits of the last step. */
const double *session_far_sum(const struct session *s, int slot);
const double *session_sink_sum(const struct session *s, int slot);
const double *session_distance_sum(const struct session *s, int slot);

/* What queries at t >= s + window gave token s of a slot since its reset (method.md section 11): the largest softmax weight,
 * and the mean over queries and the query heads of the group; (n_layers, session_length(), n_kv_heads) f32 in host memory,
 * NaN where there is no such query and in the model's own sliding layers. Only with future_attention. Borrowed until the
 * next call. Waits. */
int session_future(struct session *s, int slot, const float **max, const float **mean, struct err *err);

/* The scores that a policy with foresight wants of the tokens of a slot, from a session under full attention with
 * future_attention (and value_norms where they count): (n_layers, session_length(), n_kv_heads) f32 in host memory, 0 where
 * no query lies outside the window. Borrowed until the next call. Waits. */
int session_foresee(struct session *s, int slot, const struct foresight *what, const float **scores, struct err *err);

/* Bins of query-key distance: bin 0 holds distance 0; then four an octave, edges ceil(2^(i/4)) without repeats.
 * Returns the number of bins for distances below max_len and, when edge is not NULL, writes n + 1 edges (edge[n] is past
 * the largest distance of the last bin). */
int distance_bins(int max_len, int64_t *edge);

#endif
