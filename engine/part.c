#include "engine/part.h"

#include <string.h>

#include "base/json.h"

int part_parse(const json_t *json, const char *members, part_add *add, void *self, const char *where, struct err *err) {
    const char *type = "without a type";
    json_t *list = NULL, *member;
    size_t i;
    if (!json_is_object(json))
        return err_set(err, ERR_INPUT, where, "an object with a \"type\" was expected");
    int rc = json_get_string(json, "type", &type, where, err);
    if (rc == OK && strcmp(type, "Sequence") != 0)
        return add(self, json, type, where, err);
    if (rc == OK)
        rc = json_require(json, members, where, err);
    if (rc == OK)
        rc = json_get_array(json, members, &list, where, err);
    if (rc == OK)
        json_array_foreach(list, i, member) {
            rc = part_parse(member, members, add, self, where, err);
            if (rc != OK)
                break;
        }
    return rc;
}
