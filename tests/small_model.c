#include "tests/small_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

void maker_add(struct maker *m, const char *name, float base, size_t a, size_t b, size_t c) {
    size_t shape[] = {a, b, c}, n = 1, begin = m->data.len;
    str_printf(&m->header, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", m->header.len ? "," : "{", name);
    for (int i = 0; i < 3 && shape[i]; i++) {
        str_printf(&m->header, "%s%zu", i ? "," : "", shape[i]);
        n *= shape[i];
    }
    for (size_t i = 0; i < n; i++) {
        float value = (base + (float)i) / 8;
        str_append(&m->data, &value, 4);
    }
    str_printf(&m->header, "],\"data_offsets\":[%zu,%zu]}", begin, m->data.len);
}

void maker_write(struct maker *m, const struct scratch *s, const char *name) {
    struct str out = {0};
    str_puts(&m->header, m->header.len ? "}" : "{}");
    for (int i = 0; i < 8; i++)
        str_putc(&out, (char)(m->header.len >> 8 * i));
    str_append(&out, m->header.data, m->header.len);
    str_append(&out, m->data.data, m->data.len);
    assert_false(out.failed || m->header.failed || m->data.failed);
    scratch_write(s, name, out.data, out.len);
    str_free(&out);
    str_free(&m->header);
    str_free(&m->data);
}

void maker_add_model(struct maker *m) {
    maker_add(m, "model.embed_tokens.weight", 1, 16, 8, 0);
    maker_add(m, ATTENTION "q_proj.weight", 3, 8, 8, 0);
    maker_add(m, ATTENTION "k_proj.weight", 5, 4, 8, 0);
    maker_add(m, "model.norm.weight", 7, 8, 0, 0);
}

void maker_add_trunk(struct maker *m, const char *prefix) {
    char name[160];
    snprintf(name, sizeof name, "%sfc1.weight", prefix);
    maker_add(m, name, 1, 3, 8, 0);
    snprintf(name, sizeof name, "%sfc1.bias", prefix);
    maker_add(m, name, 2, 3, 0, 0);
    snprintf(name, sizeof name, "%sfc2.weight", prefix);
    maker_add(m, name, 3, 2, 3, 0);
    snprintf(name, sizeof name, "%sfc2.bias", prefix);
    maker_add(m, name, 4, 2, 0, 0);
}

void write_model(const struct scratch *s, const char *config) {
    struct maker m = {0};
    maker_add_model(&m);
    maker_write(&m, s, "model.safetensors");
    scratch_write_text(s, "config.json", config);
}

struct checkpoint *must_open(const struct scratch *s, const char *predictor_dir) {
    struct checkpoint *c;
    struct err err = {0};
    if (checkpoint_open(s->dir, predictor_dir, &c, &err) != OK)
        fail_msg("%s: %s", err.where, err.message);
    return c;
}

void must_refuse(const struct scratch *s, const char *predictor_dir, const char *where, const char *message) {
    struct checkpoint *c;
    struct err err = {0};
    assert_int_equal(checkpoint_open(s->dir, predictor_dir, &c, &err), ERR_INPUT);
    assert_null(c);
    if (!strstr(err.where, where) || !strstr(err.message, message))
        fail_msg("says \"%s: %s\"\n  expected \"%s: %s\"", err.where, err.message, where, message);
}
