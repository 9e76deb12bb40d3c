#include <stdlib.h>
#include <string.h>

#include "analyze/profile.h"
#include "base/clock.h"
#include "base/file.h"
#include "cli/cli.h"
#include "cli/verify.h"

/* --- the text it was chosen on ---------------------------------------------------------------------------------------- */

/* Whether the profile that a layout names, where it still lies there, was made of files among these. */
static bool profile_shares(const char *path, const json_t *hashes) {
    struct err ignored = {0};
    struct profile *profile;
    bool found = false;
    if (!path || !file_exists(path) || profile_open(path, &profile, &ignored) != OK)
        return false;
    const struct profile_meta *meta = profile_meta(profile);
    for (size_t i = 0; i < meta->n_sources && !found; i++)
        found = hashes_hold(hashes, meta->sources[i].hash);
    profile_close(profile);
    return found;
}

bool layout_chosen_on(const struct layout *layout, const json_t *file_hashes) {
    const json_t *made_by = layout->made_by, *profiles = json_object_get(made_by, "profiles"), *entry;
    bool found = hashes_meet(json_object_get(made_by, "corpus_hashes"), file_hashes) ||
                 profile_shares(json_string_value(json_object_get(made_by, "profile")), file_hashes);
    size_t i;
    json_array_foreach(profiles, i, entry)
        found = found || profile_shares(json_string_value(json_object_get(entry, "profile")), file_hashes);
    return found;
}

/* --- what was measured ------------------------------------------------------------------------------------------------ */

/* Figures of other text or another model go only with a word. */
static void note_replaced(const struct verification *v, const struct verify_case *c, const json_t *old, const json_t *new) {
    static const char *const keys[] = {"text_hash", "model_hash"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys && json_object_size(old) > 0; i++)
        if (!json_equal(json_object_get(old, keys[i]), json_object_get(new, keys[i]))) {
            cli_note(v->options->run.quiet, "%s held figures of another %s, which are replaced", c->layout_path,
                     i == 0 ? "text" : "model");
            return;
        }
}

int verify_write_layout(const struct verification *v, const struct verify_case *c, struct err *err) {
    struct layout *layout;
    int rc = layout_read(c->layout_path, &layout, err); /* again: runs take long, and the file may have got more since */
    if (rc != OK)
        return rc;
    if (!layout->measured)
        layout->measured = json_pack("{s:{}, s:{}}", verify_column_names[0], verify_column_names[1]);
    for (int column = 0; rc == OK && column < N_COLUMNS; column++) {
        if (!c->figures[column].there)
            continue;
        json_t *figures = verify_figures_json(v, &c->figures[column], (enum verify_column)column);
        note_replaced(v, c, json_object_get(layout->measured, verify_column_names[column]), figures);
        json_object_set_new(figures, "chosen_on_this_text", json_boolean(c->chosen_here));
        if (json_object_set_new(layout->measured, verify_column_names[column], figures) != 0)
            rc = err_memory(err, "figures", 0);
    }
    if (rc == OK)
        rc = layout_write(layout, c->layout_path, err);
    layout_free(layout);
    return rc;
}
