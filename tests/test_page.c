/* The page: nothing from outside gets in unescaped, nothing is requested, its parts are well formed and its policy fits
 * them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "reports/page.h"
#include "reports/run_figures.h"
#include "reports/run_maps.h"
#include "reports/run_tables.h"
#include "reports/text.h"
#include "tests/fake_run.h"
#include "tests/scratch.h"

/* A recorded run whose texts a stranger chose. */
struct world {
    struct scratch scratch;
    struct profile *profile;
    struct run run;
    struct profile_meta meta;
};

#define HOSTILE "\"'><script>alert(1)</script><img src=http://evil/x onerror=alert(2)>&\xff\x1b[31m]]>--!>"

static const char *const hostile_corpora[] = {HOSTILE, "http://corpus/" HOSTILE};

static int open_world(void **state) {
    static struct world world;
    struct fake_run fake = {.n_sequences = 9,
                            .score = PROFILE_SCORE_SIGMOID,
                            .gates = true,
                            .record = PROFILE_RECORD_ATTENTION | PROFILE_RECORD_CLASSES};
    struct err err = {0};
    world = (struct world){0};
    scratch_open(&world.scratch);
    const char *path = scratch_path(&world.scratch, "run.h5");
    if (fake_record(path, &fake, &err) != OK || profile_open(path, &world.profile, &err) != OK ||
        run_load(world.profile, &world.run, &err) != OK) {
        print_error("%s: %s\n", err.where, err.message);
        return -1;
    }
    world.meta = *world.run.meta;
    world.meta.model_path = world.meta.model_type = world.meta.policy = world.meta.policy_parameters = HOSTILE;
    world.meta.command_line = world.meta.host = world.meta.cpu = world.meta.gpu = world.meta.model_hash = HOSTILE;
    world.meta.program_version = world.meta.git_commit = world.meta.backend = world.meta.dtype = world.meta.prefill =
        HOSTILE;
    world.meta.corpus_names = hostile_corpora;
    world.run.meta = &world.meta;
    world.run.path = "/a/" HOSTILE ".h5";
    *state = &world;
    return 0;
}

static int close_world(void **state) {
    struct world *world = *state;
    run_free(&world->run);
    profile_close(world->profile);
    scratch_close(&world->scratch);
    return 0;
}

/* A page with every piece there is. */
static void make_page(struct world *world, struct str *page) {
    const struct run_quantity *q[RUN_MAX_MAPS];
    struct str svg = {0};
    struct err err = {0};
    struct table table;
    page_begin(page, HOSTILE, HOSTILE);
    page_put_run(page, &world->run);
    page_put_note(page, HOSTILE);
    size_t n = run_quantities(&world->run, q);
    assert_true(n >= 5);
    for (size_t i = 0; i < n; i++) {
        struct run_map map;
        assert_int_equal(run_map_create(&world->run, q[i], &map, &err), OK);
        assert_int_equal(page_put_heatmap(page, &map.map, &err), OK);
        run_map_free(&map);
    }
    str_puts(&svg, "<svg xmlns=\"http://www.w3.org/2000/svg\"/>");
    for (int kind = 0; kind < RUN_N_FIGURES; kind++) {
        struct run_figure figure;
        assert_true(run_has_figure(&world->run, (enum run_figure_kind)kind));
        assert_int_equal(run_figure_create(&world->run, (enum run_figure_kind)kind, &figure, &err), OK);
        page_put_figure(page, &figure.figure, &svg, NULL);
        page_put_figure(page, &figure.figure, NULL, HOSTILE);
        run_figure_free(&figure);
    }
    run_table_heads(&world->run, &table);
    page_put_table(page, &table, HOSTILE, "heads.csv");
    table_free(&table);
    page_end(page, HOSTILE);
    str_free(&svg);
    assert_false(page->failed);
}

/* Walks over a page; every tag must be closed in order, attributes quoted. Script and style are skipped. */
static void assert_balanced(const char *p) {
    char stack[64][16];
    size_t depth = 0, n_tags = 0;
    while ((p = strchr(p, '<'))) {
        const char *end = p + 1;
        char name[16] = {0};
        bool closing = p[1] == '/';
        for (char quote = 0; *end && (quote || *end != '>'); end++) {
            if (quote ? *end == quote : *end == '"')
                quote = quote ? 0 : *end;
            assert_true(quote || *end != '<');
        }
        assert_int_equal(*end, '>');
        size_t len = strspn(p + 1 + closing, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!");
        assert_true(len > 0 && len < sizeof name);
        memcpy(name, p + 1 + closing, len);
        bool is_void = strcmp(name, "meta") == 0 || strcmp(name, "img") == 0 || name[0] == '!' || end[-1] == '/';
        n_tags++;
        if (closing) {
            if (depth == 0 || strcmp(stack[depth - 1], name) != 0)
                fail_msg("</%s> closes <%s>", name, depth ? stack[depth - 1] : "nothing");
            depth--;
        } else if (!is_void) {
            assert_true(depth < 64);
            memcpy(stack[depth++], name, sizeof name);
        }
        p = end;
        if (!closing && (strcmp(name, "script") == 0 || strcmp(name, "style") == 0)) {
            char tail[20];
            snprintf(tail, sizeof tail, "</%s>", name);
            assert_non_null(p = strstr(p, tail));
        }
    }
    assert_int_equal(depth, 0);
    assert_true(n_tags > 100);
}

static size_t count(const char *text, const char *what) {
    size_t n = 0;
    for (const char *p = text; (p = strstr(p, what)); p++)
        n++;
    return n;
}

static void strangers_texts_are_escaped(void **state) {
    struct str page = {0};
    make_page(*state, &page);
    assert_int_equal(count(page.data, "<script"), 1); /* ours */
    assert_int_equal(count(page.data, "<img"), RUN_N_FIGURES); /* one a figure */
    assert_null(strstr(page.data, "alert(1)</script>"));
    assert_true(count(page.data, "&lt;script&gt;alert(1)&lt;/script&gt;") > 20);
    assert_int_equal(utf8_first_invalid(page.data, page.len), page.len);
    for (size_t i = 0; i < page.len; i++)
        assert_true((unsigned char)page.data[i] >= 0x20 || page.data[i] == '\n');
    str_free(&page);
}

static void tags_are_balanced(void **state) {
    struct str page = {0};
    make_page(*state, &page);
    assert_int_equal(strncmp(page.data, PAGE_MARK, strlen(PAGE_MARK)), 0);
    assert_balanced(page.data);
    str_free(&page);
}

/* Whatever a browser would fetch by itself is in the page; addresses appear in text at most. */
static void nothing_is_requested(void **state) {
    struct str page = {0};
    make_page(*state, &page);
    for (const char *p = page.data; (p = strstr(p, "src=\"")); p++)
        assert_int_equal(strncmp(p + 5, "data:image/svg+xml;base64,", 26), 0);
    for (const char *p = page.data; (p = strstr(p, "href=\"")); p++)
        assert_int_equal(p[6], '#');
    assert_null(strstr(page_style, "url("));
    assert_null(strstr(page_style, "@import"));
    assert_null(strstr(page_script, "http"));
    assert_int_equal(count(page.data, "<link"), 0);
    assert_int_equal(count(page.data, "style=\""), 0); /* the policy would drop them */
    str_free(&page);
    /* With harmless texts no address is left but the name of SVG. */
    struct world *world = *state;
    struct run run = world->run;
    run.meta = profile_meta(world->profile);
    run.path = "run.h5";
    page_begin(&page, "title", "lead");
    page_put_run(&page, &run);
    page_end(&page, "");
    assert_int_equal(count(page.data, "http://") + count(page.data, "https://"), 0);
    const struct run_quantity *q[RUN_MAX_MAPS];
    struct run_map map;
    struct err err = {0};
    run_quantities(&run, q);
    assert_int_equal(run_map_create(&run, q[0], &map, &err), OK);
    str_clear(&page);
    assert_int_equal(page_put_heatmap(&page, &map.map, &err), OK);
    assert_int_equal(count(page.data, "http"), count(page.data, "xmlns=\"http://www.w3.org/2000/svg\""));
    run_map_free(&map);
    str_free(&page);
}

/* -- SHA-256 (FIPS 180-4), to check the hashes in the policy -- */

static uint32_t rotate(uint32_t x, int n) {
    return x >> n | x << (32 - n);
}

/* First 32 bits of the fractional part of a root of a prime, exact in long double. */
static uint32_t root_bits(int prime, bool cube) {
    long double root = cube ? cbrtl((long double)prime) : sqrtl((long double)prime);
    return (uint32_t)((root - floorl(root)) * 4294967296.0L);
}

static int next_prime(int n) {
    for (n++;; n++) {
        bool prime = true;
        for (int d = 2; d * d <= n; d++)
            prime &= n % d != 0;
        if (prime)
            return n;
    }
}

static void sha256_block(uint32_t h[8], const unsigned char *block) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
               (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(s, h, sizeof s);
    for (int i = 0, prime = 2; i < 64; i++, prime = next_prime(prime)) {
        uint32_t t1 = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) +
                      root_bits(prime, true) + w[i];
        uint32_t t2 =
            (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        h[i] += s[i];
}

static void sha256_base64(const char *text, struct str *out) {
    size_t n = strlen(text), padded = (n + 9 + 63) / 64 * 64;
    unsigned char *data = calloc(padded, 1), digest[32];
    uint32_t h[8];
    for (int i = 0, prime = 2; i < 8; i++, prime = next_prime(prime))
        h[i] = root_bits(prime, false);
    memcpy(data, text, n);
    data[n] = 0x80;
    for (int i = 0; i < 8; i++)
        data[padded - 1 - (size_t)i] = (unsigned char)((uint64_t)n * 8 >> (8 * i));
    for (size_t i = 0; i < padded; i += 64)
        sha256_block(h, data + i);
    for (int i = 0; i < 32; i++)
        digest[i] = (unsigned char)(h[i / 4] >> (24 - 8 * (i % 4)));
    text_put_base64(out, digest, sizeof digest);
    free(data);
}

static void assert_allowed(const char *page, const char *directive, const char *text) {
    struct str expected = {0};
    str_printf(&expected, "%s 'sha256-", directive);
    sha256_base64(text, &expected);
    str_putc(&expected, '\'');
    if (!strstr(page, expected.data))
        fail_msg("the policy in reports/page_assets.c must say %s", expected.data);
    str_free(&expected);
}

static void the_policy_allows_our_style_and_script_only(void **state) {
    (void)state;
    struct str page = {0}, abc = {0};
    sha256_base64("abc", &abc); /* FIPS 180-4: ba7816bf 8f01cfea 414140de 5dae2223 b00361a3 96177a9c b410ff61 f20015ad */
    assert_string_equal(str_text(&abc), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
    page_begin(&page, "title", "lead");
    assert_non_null(strstr(page.data, "http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';"));
    assert_allowed(page.data, "style-src", page_style);
    assert_allowed(page.data, "script-src", page_script);
    assert_null(strstr(page.data, "unsafe"));
    str_free(&abc);
    str_free(&page);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strangers_texts_are_escaped),
        cmocka_unit_test(tags_are_balanced),
        cmocka_unit_test(nothing_is_requested),
        cmocka_unit_test(the_policy_allows_our_style_and_script_only),
    };
    return cmocka_run_group_tests_name("page", tests, open_world, close_world);
}
