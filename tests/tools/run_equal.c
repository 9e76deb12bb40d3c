/* run_equal A B: exit status 0 when two run files hold the same data, bit for bit, dataset by dataset (settings that say
 * where and when a run was made are not data). Prints the first difference otherwise. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analyze/profile.h"

static int differ(const char *what) {
    printf("%s differs\n", what);
    return 1;
}

static int compare_rows(struct profile *a, struct profile *b, enum profile_field field, uint64_t n) {
    size_t row = profile_row_items(a, field) * profile_item_bytes(a, field);
    struct err err = {0};
    void *x = malloc(row), *y = malloc(row);
    int different = 0;
    for (uint64_t i = 0; i < n && !different; i++)
        if (profile_read_rows(a, field, i, 1, x, &err) != OK || profile_read_rows(b, field, i, 1, y, &err) != OK ||
            memcmp(x, y, row) != 0)
            different = differ(profile_field_name(field));
    free(x);
    free(y);
    return different;
}

static int compare_sums(struct profile *a, struct profile *b, enum profile_field field) {
    size_t n = profile_row_items(a, field) * profile_item_bytes(a, field);
    struct err err = {0};
    void *x = NULL, *y = NULL;
    int different = profile_read_sum(a, field, &x, &err) != OK || profile_read_sum(b, field, &y, &err) != OK || memcmp(x, y, n) != 0;
    free(x);
    free(y);
    return different ? differ(profile_field_name(field)) : 0;
}

static int compare_field(struct profile *a, struct profile *b, enum profile_field field) {
    if (profile_has(a, field) != profile_has(b, field))
        return differ(profile_field_name(field));
    if (!profile_has(a, field))
        return 0;
    if (field >= PROFILE_TOKEN_ID)
        return compare_rows(a, b, field, profile_n_tokens(a));
    if (field >= PROFILE_UTILITY_HISTOGRAM)
        return compare_sums(a, b, field);
    return compare_rows(a, b, field, profile_n_sequences(a));
}

int main(int argc, char **argv) {
    struct profile *a, *b;
    struct err err = {0};
    if (argc != 3 || profile_open(argv[1], &a, &err) != OK || profile_open(argv[2], &b, &err) != OK) {
        printf("run_equal: %s: %s\n", err.where, err.message);
        return 2;
    }
    int different = profile_n_sequences(a) != profile_n_sequences(b) ? differ("the number of sequences") :
                    profile_n_tokens(a) != profile_n_tokens(b)       ? differ("the number of tokens") : 0;
    if (profile_is_partial(a) != profile_is_partial(b))
        different = differ("completeness");
    for (int field = 0; field < PROFILE_N_FIELDS && !different; field++)
        different = compare_field(a, b, (enum profile_field)field);
    profile_close(a);
    profile_close(b);
    return different;
}
