/* continuation.h - texts to score, as tokens, the way the lm-evaluation-harness (0.4.13, HFLM) makes them: white space at
 * the end of a context moves to its continuation, the whole string is encoded once and cut at the context's own number of
 * tokens; an empty context becomes the prefix token; what is too long loses tokens from the left. Immutable after
 * opening. */
#ifndef SPKV_ENGINE_CONTINUATION_H
#define SPKV_ENGINE_CONTINUATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/config.h"
#include "engine/tokenizer.h"

struct text_encoder {
    const struct tokenizer *tokenizer; /* borrowed */
    int32_t prefix_id;   /* stands for an empty context; before the first window of a document */
    struct str prefix;   /* its text: a string that begins with it gets no second one */
    bool add_special;    /* the template's prefix (usually BOS) before every text */
    size_t max_length;   /* most tokens fed */
};

enum bos { BOS_AUTO, BOS_YES, BOS_NO }; /* as the tokenizer's template says, or as the user does */

/* DIR is the model's: its tokenizer_config.json, where there is one, names bos_token and eos_token (the prefix token is the
 * first of them), else its configuration does. ERR_INPUT when the model has neither. Free in any case. */
int text_encoder_open(const char *dir, const struct tokenizer *tokenizer, const struct model_config *config, enum bos bos,
                      size_t max_length, struct text_encoder *out, struct err *err);
void text_encoder_free(struct text_encoder *encoder);

struct token_span {
    size_t first, n_tok, n_context; /* of a token_list; n_context >= 1 */
    size_t n_cut;                   /* tokens that the left lost */
};

/* Appends context and continuation. ERR_INPUT for a continuation without tokens, or with more than max_length. */
int encode_continuation(const struct text_encoder *encoder, const char *context, const char *continuation,
                        struct token_list *tokens, struct token_span *span, struct err *err);

/* Appends a text with its special tokens; *n_context tokens of it (0 or the template's) are no text. */
int encode_text(const struct text_encoder *encoder, const char *text, size_t n, struct token_list *tokens, size_t *n_special,
                struct err *err);

/* Window i over the n_tok tokens of a document with the prefix token in front, as a request: tokens first .. first + n_tok
 * - 1, of which the last n_tok - n_context are predicted; n_tok is 0 behind the last window. Every token but the prefix is
 * predicted once. stride 0: the harness's windows (get_rolling_token_windows with one token of context), of which only the
 * last overlaps; else each window begins `stride` tokens, at most max_length, behind the one before. */
struct token_span rolling_window(size_t n_tok, size_t max_length, size_t stride, size_t i);

/* Python's \s and str.isspace(). */
bool is_python_space(unsigned code_point);

#endif
