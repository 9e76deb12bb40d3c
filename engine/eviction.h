/* eviction.h - what a session keeps for a policy that evicts: the sums that attention adds up, and the dropping of pairs at
 * chunk boundaries (struct eviction_rule). Everything runs on the device; nothing waits. */
#ifndef SPKV_ENGINE_EVICTION_H
#define SPKV_ENGINE_EVICTION_H

#include "engine/forward.h"

struct eviction;

/* For sessions of a policy with evict.chunk > 0. The cache, made with positions, and the tables are borrowed; `rope` holds
 * config->n_rope device tables of max_len positions. */
int eviction_create(const struct model *model, const struct policy *policy, struct kv_cache *cache, float *const *rope,
                    struct eviction **out, struct err *err);
void eviction_free(struct eviction *e);

/* Whether the rule needs the weights of attention, and so the log of their sum. */
bool eviction_needs_attention(const struct policy *policy);

/* Forgets the sums of a slot. */
void eviction_reset(struct eviction *e, int slot);

/* The sums of one slot become those of another. */
void eviction_copy(struct eviction *e, int from, int to);

/* What a step adds up; borrowed until the next call. */
const struct step_eviction *eviction_begin_step(struct eviction *e, const struct kv_batch *batch);

/* After the step: drops pairs of the sequences that reached a boundary. One that went past it, because its step was longer
 * than policy_step() allows, drops them where the step ended. */
void eviction_end_step(struct eviction *e, const struct kv_batch *batch);

#endif
