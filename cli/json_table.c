#include "cli/json_table.h"

#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "reports/text.h"

static void put_text(struct str *out, const char *text) {
    bool quoted = strpbrk(text, ",\"\r\n") != NULL;
    if (quoted)
        str_putc(out, '"');
    for (; *text; text++)
        str_puts(out, *text == '"' ? "\"\"" : (const char[]){*text, 0});
    if (quoted)
        str_putc(out, '"');
}

static void put_value(struct str *out, const json_t *value) {
    if (json_is_string(value))
        put_text(out, json_string_value(value));
    else if (json_is_integer(value))
        str_printf(out, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        text_put_double(out, json_real_value(value));
    else if (json_is_boolean(value))
        str_puts(out, json_is_true(value) ? "true" : "false");
}

int json_write_csv(const json_t *rows, const char *path, struct err *err) {
    struct str out = {0};
    json_t *first = json_array_get(rows, 0), *row, *value;
    const char *key, *separator = "";
    size_t i;
    json_object_foreach(first, key, value)
        if (!json_is_array(value) && !json_is_object(value)) {
            str_puts(&out, separator);
            put_text(&out, key);
            separator = ",";
        }
    json_array_foreach(rows, i, row) {
        separator = "\n";
        json_object_foreach(first, key, value)
            if (!json_is_array(value) && !json_is_object(value)) {
                str_puts(&out, separator);
                put_value(&out, json_object_get(row, key));
                separator = ",";
            }
    }
    str_putc(&out, '\n');
    int rc = out.failed ? err_memory(err, "a table", out.len) : file_write_all(path, out.data, out.len, err);
    str_free(&out);
    return rc;
}
