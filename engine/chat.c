#include "engine/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "engine/unicode_class.h"

enum { MAX_CONFIG_BYTES = 64 << 20 };

/* What a known template makes of one message of the user's and add_generation_prompt. Templates of one family differ in
 * their text and in the system message that they add. */
struct known {
    const char *hash, *name, *before, *after;
    bool trims;
};

#define CHATML_AFTER "<|im_end|>\n<|im_start|>assistant\n"
#define CHATML_SYSTEM(text) "<|im_start|>system\n" text "<|im_end|>\n<|im_start|>user\n"
#define LLAMA3_USER "<|start_header_id|>user<|end_header_id|>\n\n"
#define LLAMA3_AFTER "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
#define GEMMA_BEFORE "<bos><start_of_turn>user\n"
#define GEMMA_AFTER "<end_of_turn>\n<start_of_turn>model\n"

static const struct known KNOWN[] = {
    {"f0a6a8278439fdb056191e205a440263", "chatml", "<|im_start|>user\n", CHATML_AFTER, false},
    {"a344e8c84fb0282dda206a9e46a4ac01", "chatml", "<|im_start|>user\n", CHATML_AFTER, false},
    {"98f63cc3d421d28f99ab995e9629dacd", "chatml (SmolLM2)",
     CHATML_SYSTEM("You are a helpful AI assistant named SmolLM, trained by Hugging Face"), CHATML_AFTER, false},
    {"68c860e7356f7ab320f20c2b5139eaee", "qwen1.5", CHATML_SYSTEM("You are a helpful assistant"), CHATML_AFTER, false},
    {"e580c2da83415028d5d943bd0bd9082f", "qwen2", CHATML_SYSTEM("You are a helpful assistant."), CHATML_AFTER, false},
    {"e3c699cb55b0c32df9a29021c9d093ad", "qwen2.5",
     CHATML_SYSTEM("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."), CHATML_AFTER, false},
    {"09facc0e4aa943189799ad6e2dea0594", "llama3", "<|begin_of_text|>" LLAMA3_USER, LLAMA3_AFTER, true},
    {"1c3ab7d0683618d9f6db71f9f4a22e96", "llama3", "<|begin_of_text|>" LLAMA3_USER, LLAMA3_AFTER, true},
    /* It asks for today's date; the one that it falls back on gives the same prompt every day. */
    {"51839d38c9ee4e80ba28f0d41aa45594", "llama3.2 (26 Jul 2024)",
     "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
     "Today Date: 26 Jul 2024\n\n<|eot_id|>" LLAMA3_USER, LLAMA3_AFTER, true},
    {"8b30bb763d138e692c2e86beabccd2a4", "gemma", GEMMA_BEFORE, GEMMA_AFTER, true},
    {"1724a63509483ba7c8e457151b225c66", "gemma3", GEMMA_BEFORE, GEMMA_AFTER, true},
};
enum { N_KNOWN = sizeof KNOWN / sizeof *KNOWN };

/* White space at the ends of n bytes of UTF-8. */
static void trim(const char **text, size_t *n) {
    unsigned c;
    size_t len;
    while (*n > 0 && (len = utf8_decode(*text, *n, &c), unicode_is_space(c))) {
        *text += len;
        *n -= len;
    }
    while (*n > 0 && (c = utf8_decode_last(*text, *n, &len), unicode_is_space(c)))
        *n -= len;
}

/* XXH3-128 of a template without white space at its ends. The two characters \n in it and a line break are the same thing:
 * files differ in that, what they write does not. */
static int hash_template(const char *text, char hex[33], struct err *err) {
    struct str plain = {0};
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++) {
        bool escape = text[i] == '\\' && text[i + 1] == 'n';
        str_putc(&plain, escape ? '\n' : text[i]);
        i += escape;
    }
    text = str_text(&plain);
    n = plain.len;
    trim(&text, &n);
    hash_hex(XXH3_128bits(text, n), hex);
    bool failed = plain.failed;
    str_free(&plain);
    return failed ? err_memory(err, "a template", n) : OK;
}

static int set(struct chat *chat, const char *name, const char *before, size_t n_before, const char *after,
               struct err *err) {
    snprintf(chat->name, sizeof chat->name, "%s", name);
    chat->before = mem_strndup(before, n_before, err);
    chat->after = mem_strdup(after, err);
    return chat->before && chat->after ? OK : ERR_MEMORY;
}

/* *found = false, nothing set and *hex filled for a template that is not known. */
static int set_known(const char *text, struct chat *chat, bool *found, char hex[33], struct err *err) {
    int rc = hash_template(text, hex, err);
    *found = false;
    for (size_t i = 0; rc == OK && i < N_KNOWN && !*found; i++)
        if (strcmp(hex, KNOWN[i].hash) == 0) {
            *found = true;
            chat->trims = KNOWN[i].trims;
            rc = set(chat, KNOWN[i].name, KNOWN[i].before, strlen(KNOWN[i].before), KNOWN[i].after, err);
        }
    return rc;
}

/* --- the model's template --- */

/* The text of "chat_template": itself, or the entry of a list that is called default. NULL: there is none. */
static const char *template_text(const json_t *config) {
    const json_t *value = json_object_get(config, "chat_template"), *entry;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)value, i, entry) {
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && strcmp(name, "default") == 0)
            return json_string_value(json_object_get(entry, "template"));
    }
    return json_string_value(value);
}

static int set_models(const char *text, const char *where, struct chat *chat, struct err *err) {
    char hex[33];
    bool found;
    int rc = set_known(text, chat, &found, hex, err);
    if (rc == OK && !found)
        rc = err_set(err, ERR_INPUT, where, "this chat template (hash %s) is not one of those that are known: chatml, "
                     "SmolLM2, qwen1.5, qwen2, qwen2.5, llama3, llama3.2, gemma, gemma3\n(give --chat FILE, a text with "
                     "{prompt} where the message goes, or --chat off)", hex);
    return rc;
}

static int open_models(const char *dir, struct chat *chat, struct err *err) {
    char *jinja = file_join(dir, "chat_template.jinja", err), *config = file_join(dir, "tokenizer_config.json", err);
    char *text = NULL;
    json_t *object = NULL;
    const char *given = NULL;
    size_t n;
    int rc = jinja && config ? OK : ERR_MEMORY;
    if (rc == OK && file_exists(jinja)) {
        if ((rc = file_read_all(jinja, MAX_CONFIG_BYTES, &text, &n, err)) == OK)
            rc = set_models(text, jinja, chat, err);
    } else if (rc == OK && file_exists(config)) {
        if ((rc = json_read_object(config, MAX_CONFIG_BYTES, &object, err)) == OK && (given = template_text(object)))
            rc = set_models(given, config, chat, err);
    }
    json_decref(object);
    free(text);
    free(jinja);
    free(config);
    return rc;
}

/* --- the user's file --- */

static int set_own(const char *text, const char *path, struct chat *chat, const char *hex, struct err *err) {
    static const char mark[] = "{prompt}";
    const char *hit = strstr(text, mark);
    char name[64];
    if (!hit || strstr(hit + 1, mark))
        return err_set(err, ERR_INPUT, path, "%s (a text that holds it once, where the message goes, was expected)",
                       hit ? "{prompt} stands in it more than once"
                           : "neither a chat template that is known nor a text with {prompt}");
    snprintf(name, sizeof name, "file:%s", hex);
    return set(chat, name, text, (size_t)(hit - text), hit + sizeof mark - 1, err);
}

static int open_file(const char *path, struct chat *chat, struct err *err) {
    char *text = NULL, hex[33];
    bool found;
    size_t n;
    int rc = file_read_all(path, MAX_CONFIG_BYTES, &text, &n, err);
    if (rc == OK && (strlen(text) != n || utf8_first_invalid(text, n) < n))
        rc = err_set(err, ERR_INPUT, path, "not UTF-8 text");
    if (rc == OK)
        rc = set_known(text, chat, &found, hex, err);
    if (rc == OK && !found)
        rc = set_own(text, path, chat, hex, err);
    free(text);
    return rc;
}

int chat_open(const char *dir, const char *option, struct chat *out, struct err *err) {
    *out = (struct chat){.name = "off"};
    int rc = OK;
    if (strcmp(option, "auto") == 0) {
        snprintf(out->name, sizeof out->name, "none");
        rc = open_models(dir, out, err);
    } else if (strcmp(option, "off") != 0) {
        rc = open_file(option, out, err);
    }
    if (rc != OK)
        chat_free(out);
    return rc;
}

void chat_free(struct chat *chat) {
    free(chat->before);
    free(chat->after);
    *chat = (struct chat){0};
}

bool chat_is_on(const struct chat *chat) {
    return chat->before != NULL;
}

void chat_put(const struct chat *chat, const char *message, size_t n, struct str *out) {
    if (chat->trims)
        trim(&message, &n);
    str_puts(out, chat->before ? chat->before : "");
    str_append(out, message, n);
    str_puts(out, chat->after ? chat->after : "");
}
