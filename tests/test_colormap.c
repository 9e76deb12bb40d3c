/* Colours against matplotlib's published table and the definitions of WCAG and xterm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <math.h>

#include "reports/colormap.h"

/* Entries of matplotlib 3's viridis table (matplotlib/_cm_listed.py, CC0), 8 bits a channel. */
static const struct {
    int i;
    uint32_t color;
} viridis[] = {
    {0, 0x440154},   {1, 0x440256},   {2, 0x450457},   {3, 0x450559},   {4, 0x46075a},   {7, 0x460b5e},   {13, 0x481467},
    {22, 0x482071},  {31, 0x472c7a},  {38, 0x463480},  {49, 0x424186},  {58, 0x3e4c8a},  {67, 0x39558c},  {76, 0x355f8d},
    {83, 0x31668e},  {94, 0x2d718e},  {101, 0x2a778e}, {112, 0x26828e}, {119, 0x23888e}, {128, 0x21918c}, {137, 0x1f998a},
    {146, 0x1fa187}, {153, 0x22a884}, {164, 0x2db27d}, {171, 0x37b878}, {182, 0x4ac16d}, {189, 0x58c765}, {198, 0x6ccd5a},
    {207, 0x81d34d}, {216, 0x98d83e}, {223, 0xaadc32}, {231, 0xc0df25}, {238, 0xd2e21b}, {243, 0xdfe318}, {248, 0xece51b},
    {251, 0xf4e61e}, {253, 0xf8e621}, {254, 0xfbe723}, {255, 0xfde725},
};

static int channel_difference(struct rgb a, uint32_t b) {
    int r = abs(a.r - (int)(b >> 16)), g = abs(a.g - (int)(b >> 8 & 255)), bl = abs(a.b - (int)(b & 255));
    return r > g ? (r > bl ? r : bl) : (g > bl ? g : bl);
}

static void viridis_is_matplotlibs(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof viridis / sizeof *viridis; i++) {
        int difference = channel_difference(colormap_at(COLORMAP_VIRIDIS, viridis[i].i / 255.0), viridis[i].color);
        assert_true(difference <= (viridis[i].i % 5 == 0 ? 0 : 1));
    }
}

static void values_outside_are_clamped(void **state) {
    (void)state;
    for (int map = COLORMAP_VIRIDIS; map <= COLORMAP_DIVERGING; map++) {
        struct rgb low = colormap_at((enum colormap)map, -3), zero = colormap_at((enum colormap)map, 0);
        struct rgb high = colormap_at((enum colormap)map, INFINITY), one = colormap_at((enum colormap)map, 1);
        assert_memory_equal(&low, &zero, sizeof low);
        assert_memory_equal(&high, &one, sizeof high);
    }
}

static void brightness_follows_the_value(void **state) {
    (void)state;
    double before = -1;
    for (int i = 0; i <= 255; i++) {
        double l = rgb_luminance(colormap_at(COLORMAP_VIRIDIS, i / 255.0));
        assert_true(l > before - 0.002); /* 8-bit steps */
        before = l;
    }
}

static void differences_have_a_neutral_centre_and_equal_wings(void **state) {
    (void)state;
    struct rgb centre = colormap_at(COLORMAP_DIVERGING, 0.5);
    assert_int_equal(centre.r, centre.g);
    assert_int_equal(centre.g, centre.b);
    double before = rgb_luminance(centre);
    for (int i = 1; i <= 100; i++) {
        struct rgb low = colormap_at(COLORMAP_DIVERGING, 0.5 - i / 200.0),
                   high = colormap_at(COLORMAP_DIVERGING, 0.5 + i / 200.0);
        double l = rgb_luminance(low), h = rgb_luminance(high);
        assert_true(l < before + 1e-9 && h < before + 0.01);
        assert_true(fabs(l - h) < 0.06);
        if (i > 5)
            assert_true(low.b > low.r && high.r > high.b);
        before = l;
    }
    assert_true(before < 0.15);
}

static void luminance_and_contrast_are_wcags(void **state) {
    (void)state;
    assert_float_equal(rgb_luminance((struct rgb){0, 0, 0}), 0, 1e-12);
    assert_float_equal(rgb_luminance((struct rgb){255, 255, 255}), 1, 1e-12);
    assert_float_equal(rgb_luminance((struct rgb){255, 0, 0}), 0.2126, 1e-6);
    assert_float_equal(rgb_luminance((struct rgb){118, 118, 118}), 0.18116, 1e-4); /* #767676: contrast 4.54 on white */
    assert_true(rgb_wants_white((struct rgb){117, 117, 117}));  /* 4.61 against 4.56 */
    assert_false(rgb_wants_white((struct rgb){118, 118, 118})); /* 4.54 against 4.62 */
}

static void hatch_has_two_tones(void **state) {
    (void)state;
    int lines = 0;
    for (unsigned y = 0; y < 8; y++)
        for (unsigned x = 0; x < 8; x++) {
            struct rgb c = colormap_hatch(x, y, 8), next = colormap_hatch(x + 1, y + 7, 8); /* along a line */
            assert_int_equal(c.r, next.r);
            assert_true(c.r == colormap_hatch_ground.r || c.r == colormap_hatch_line.r);
            lines += c.r == colormap_hatch_line.r;
        }
    assert_int_equal(lines, 8 * 3);
}

/* Of all 240 fixed colours of an xterm none is nearer. */
static void xterm_colour_is_the_nearest(void **state) {
    (void)state;
    static const int level[] = {0, 95, 135, 175, 215, 255};
    for (int i = 0; i <= 64; i++) {
        struct rgb c = colormap_at(i % 2 ? COLORMAP_VIRIDIS : COLORMAP_DIVERGING, i / 64.0);
        int chosen = rgb_xterm(c), best = 1 << 30, of_chosen = -1;
        for (int k = 16; k < 256; k++) {
            int r = k < 232 ? level[(k - 16) / 36] : 8 + 10 * (k - 232), g = k < 232 ? level[(k - 16) / 6 % 6] : r;
            int b = k < 232 ? level[(k - 16) % 6] : r;
            int d = (c.r - r) * (c.r - r) + (c.g - g) * (c.g - g) + (c.b - b) * (c.b - b);
            best = d < best ? d : best;
            of_chosen = k == chosen ? d : of_chosen;
        }
        assert_int_equal(of_chosen, best);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(viridis_is_matplotlibs),
        cmocka_unit_test(values_outside_are_clamped),
        cmocka_unit_test(brightness_follows_the_value),
        cmocka_unit_test(differences_have_a_neutral_centre_and_equal_wings),
        cmocka_unit_test(luminance_and_contrast_are_wcags),
        cmocka_unit_test(hatch_has_two_tones),
        cmocka_unit_test(xterm_colour_is_the_nearest),
    };
    return cmocka_run_group_tests_name("colormap", tests, NULL, NULL);
}
