#include "engine/template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "engine/vocabulary.h"
#include "engine/part.h"

enum { MAX_AROUND = 1024 }; /* tokens on either side */

/* Inserts n ids at `at`. */
static int insert(struct token_list *list, size_t at, const int32_t *ids, size_t n, const char *where, struct err *err) {
    if (n == 0)
        return OK;
    if (list->len + n > MAX_AROUND)
        return err_set(err, ERR_INPUT, where, "more than %d tokens around a sequence", MAX_AROUND);
    int rc = mem_grow(&list->data, &list->cap, list->len + n, sizeof *list->data, "a template", err);
    if (rc != OK)
        return rc;
    memmove(list->data + at + n, list->data + at, (list->len - at) * sizeof *list->data);
    memcpy(list->data + at, ids, n * sizeof *ids);
    list->len += n;
    return OK;
}

/* Appends the ids that "special_tokens" gives for a name. */
static int append_special(const json_t *specials, const char *name, const char *where, struct token_list *list,
                          struct err *err) {
    const json_t *ids = json_object_get(json_object_get(specials, name), "ids"), *id;
    size_t i;
    int rc = OK;
    if (!json_is_array(ids))
        return err_set(err, ERR_INPUT, where, "\"special_tokens\" has no ids for \"%.100s\"", name);
    json_array_foreach(ids, i, id) {
        int32_t value = (int32_t)json_integer_value(id);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > MAX_TOKEN_ID)
            return err_set(err, ERR_INPUT, where, "an id of \"%.100s\" is not an integer from 0 to %d", name, MAX_TOKEN_ID);
        rc = insert(list, list->len, &value, 1, where, err);
        if (rc != OK)
            break;
    }
    return rc;
}

/* The ids in front of and behind the sequence in the list "single". */
static int read_single(const json_t *json, const char *where, struct token_list around[2], struct err *err) {
    json_t *pieces = NULL, *specials = NULL, *piece;
    size_t i;
    int side = 0, rc = json_require(json, "single", where, err);
    if (rc == OK)
        rc = json_get_array(json, "single", &pieces, where, err);
    if (rc == OK)
        rc = json_get_object(json, "special_tokens", &specials, where, err);
    if (rc != OK)
        return rc;
    json_array_foreach(pieces, i, piece) {
        const char *name = json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
        const char *sequence = json_string_value(json_object_get(json_object_get(piece, "Sequence"), "id"));
        if (sequence && strcmp(sequence, "A") == 0)
            side++;
        if (!name == !sequence || side > 1 || (sequence && strcmp(sequence, "A") != 0))
            return err_set(err, ERR_INPUT, where, "item %zu of \"single\" is not a SpecialToken or the one Sequence A", i);
        if (name && (rc = append_special(specials, name, where, &around[side], err)) != OK)
            return rc;
    }
    return side == 1 ? OK : err_set(err, ERR_INPUT, where, "\"single\" holds no Sequence A");
}

/* A later processor goes around what an earlier one made. */
static int add_template(const json_t *json, const char *where, struct template *out, struct err *err) {
    struct token_list around[2] = {{0}, {0}};
    int rc = read_single(json, where, around, err);
    if (rc == OK)
        rc = insert(&out->prefix, 0, around[0].data, around[0].len, where, err);
    if (rc == OK)
        rc = insert(&out->suffix, out->suffix.len, around[1].data, around[1].len, where, err);
    free(around[0].data);
    free(around[1].data);
    return rc;
}

static int add_processor(void *self, const json_t *json, const char *type, const char *where, struct err *err) {
    if (strcmp(type, "ByteLevel") == 0)
        return OK;
    if (strcmp(type, "TemplateProcessing") == 0)
        return add_template(json, where, self, err);
    return err_set(err, ERR_INPUT, where,
                   "post-processor %s is not supported (TemplateProcessing, ByteLevel and Sequence are)", type);
}

int template_parse(const json_t *json, const char *where, struct template *out, struct err *err) {
    char place[512];
    snprintf(place, sizeof place, "%s: post_processor", where);
    *out = (struct template){0};
    return json && !json_is_null(json) ? part_parse(json, "processors", add_processor, out, place, err) : OK;
}

void template_free(struct template *template) {
    free(template->prefix.data);
    free(template->suffix.data);
    *template = (struct template){0};
}
