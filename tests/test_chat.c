/* Chat templates: the known ones, found by their text wherever a model keeps it; others refused by hash. What a template
 * makes of a message was rendered with Jinja. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/chat.h"
#include "tests/scratch.h"

#define TURN "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
#define ANSWER "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
#define CHATML "{% for message in messages %}" TURN "{% endfor %}" ANSWER
#define SYSTEM(text)                                                                                                        \
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n" text    \
    "<|im_end|>\\n' }}{% endif %}" TURN "{% endfor %}" ANSWER
#define LLAMA3                                                                                                              \
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "        \
    "message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"     \
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"             \
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
#define GEMMA                                                                                                               \
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"  \
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"                           \
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"              \
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"           \
    "{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"        \
    "{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"

static const struct {
    const char *text, *name, *rendered; /* of "  X y " */
} cases[] = {
    {CHATML, "chatml", "<|im_start|>user\n  X y <|im_end|>\n<|im_start|>assistant\n"},
    {SYSTEM("You are a helpful AI assistant named SmolLM, trained by Hugging Face"), "chatml (SmolLM2)",
     "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
     "<|im_start|>user\n  X y <|im_end|>\n<|im_start|>assistant\n"},
    {SYSTEM("You are a helpful assistant."), "qwen2",
     "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n  X y <|im_end|>\n"
     "<|im_start|>assistant\n"},
    {LLAMA3, "llama3",
     "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nX y<|eot_id|><|start_header_id|>assistant"
     "<|end_header_id|>\n\n"},
    {GEMMA, "gemma", "<bos><start_of_turn>user\nX y<end_of_turn>\n<start_of_turn>model\n"},
};

/* The template with line breaks in place of the two characters \n. */
static void with_breaks(const char *text, struct str *out) {
    str_clear(out);
    for (; *text; text++) {
        bool escape = text[0] == '\\' && text[1] == 'n';
        str_putc(out, escape ? '\n' : *text);
        text += escape;
    }
}

static void check(const struct scratch *s, const char *option, size_t i) {
    struct chat chat;
    struct str out = {0};
    struct err err = {0};
    if (chat_open(s->dir, option, &chat, &err) != OK)
        fail_msg("%s: %s", err.where, err.message);
    assert_string_equal(chat.name, cases[i].name);
    assert_true(chat_is_on(&chat));
    chat_put(&chat, "  X y ", 6, &out);
    assert_string_equal(str_text(&out), cases[i].rendered);
    str_free(&out);
    chat_free(&chat);
}

static void test_known(void **state) {
    (void)state;
    struct scratch s;
    struct str text = {0}, json = {0};
    scratch_open(&s);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        str_clear(&json); /* in JSON the two characters \n are a line break */
        str_printf(&json, "{\"chat_template\": \"%s\"}", cases[i].text);
        scratch_write_text(&s, "tokenizer_config.json", str_text(&json));
        check(&s, "auto", i);
        str_clear(&json);
        str_printf(&json, "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"x\"}, {\"name\": \"default\", "
                   "\"template\": \"%s\"}]}", cases[i].text);
        scratch_write_text(&s, "tokenizer_config.json", str_text(&json));
        check(&s, "auto", i);
        with_breaks(cases[i].text, &text);
        str_puts(&text, "\n");
        check(&s, scratch_write_text(&s, "own.jinja", str_text(&text)), i);
        check(&s, scratch_write_text(&s, "own.jinja", cases[i].text), i);
    }
    str_free(&text);
    str_free(&json);
    scratch_close(&s);
}

static void test_choice(void **state) {
    (void)state;
    struct scratch s;
    struct chat chat;
    struct str out = {0};
    scratch_open(&s);
    assert_int_equal(chat_open(s.dir, "auto", &chat, NULL), OK); /* a base model has none */
    assert_string_equal(chat.name, "none");
    assert_false(chat_is_on(&chat));
    chat_put(&chat, " a ", 3, &out);
    assert_string_equal(str_text(&out), " a ");
    scratch_write_text(&s, "tokenizer_config.json", "{\"chat_template\": \"{{ unknown }}\"}");
    assert_int_equal(chat_open(s.dir, "off", &chat, NULL), OK);
    assert_false(chat_is_on(&chat));
    scratch_write_text(&s, "chat_template.jinja", CHATML); /* the file wins */
    assert_int_equal(chat_open(s.dir, "auto", &chat, NULL), OK);
    assert_string_equal(chat.name, "chatml");
    chat_free(&chat);

    str_clear(&out);
    assert_int_equal(chat_open(s.dir, scratch_write_text(&s, "own.txt", "Q: {prompt}\nA:"), &chat, NULL), OK);
    assert_int_equal(strncmp(chat.name, "file:", 5), 0);
    chat_put(&chat, " a ", 3, &out);
    assert_string_equal(str_text(&out), "Q:  a \nA:");
    chat_free(&chat);
    str_free(&out);
    scratch_close(&s);
}

static void must_refuse_chat(const struct scratch *s, const char *option, const char *where, const char *message) {
    struct chat chat;
    struct err err = {0};
    assert_int_equal(chat_open(s->dir, option, &chat, &err), ERR_INPUT);
    assert_false(chat_is_on(&chat));
    if (!strstr(err.where, where) || !strstr(err.message, message))
        fail_msg("\"%s: %s\" does not name %s, %s", err.where, err.message, where, message);
}

static void test_refusals(void **state) {
    (void)state;
    struct scratch s;
    struct str text = {0};
    scratch_open(&s);
    scratch_write_text(&s, "tokenizer_config.json", "{\"chat_template\": \"{{ unknown }}\"}");
    must_refuse_chat(&s, "auto", "tokenizer_config.json", "--chat FILE");
    str_puts(&text, CHATML);
    text.data[10] ^= 1; /* one letter makes another program of it */
    scratch_write_text(&s, "chat_template.jinja", str_text(&text));
    must_refuse_chat(&s, "auto", "chat_template.jinja", "hash");
    must_refuse_chat(&s, scratch_write_text(&s, "a.txt", "no mark"), "a.txt", "{prompt}");
    must_refuse_chat(&s, scratch_write_text(&s, "b.txt", "{prompt}{prompt}"), "b.txt", "more than once");
    must_refuse_chat(&s, scratch_write(&s, "c.txt", "{prompt}\xff", 9), "c.txt", "UTF-8");
    must_refuse_chat(&s, scratch_write(&s, "d.txt", "{prompt}\0x", 10), "d.txt", "UTF-8");
    str_free(&text);
    scratch_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
