#include "reports/colormap.h"

#include <math.h>
#include <stddef.h>

#include "base/err.h"

static const uint32_t viridis[] = {
    0x440154, 0x46085c, 0x471063, 0x481769, 0x481d6f, 0x482475, 0x472a7a, 0x46307e, 0x453781, 0x433d84, 0x414287,
    0x3f4889, 0x3d4e8a, 0x3a538b, 0x38598c, 0x355e8d, 0x33638d, 0x31688e, 0x2e6d8e, 0x2c718e, 0x2a768e, 0x297b8e,
    0x27808e, 0x25848e, 0x23898e, 0x218e8d, 0x20928c, 0x1f978b, 0x1e9c89, 0x1fa188, 0x21a585, 0x24aa83, 0x28ae80,
    0x2eb37c, 0x35b779, 0x3dbc74, 0x46c06f, 0x50c46a, 0x5ac864, 0x65cb5e, 0x70cf57, 0x7cd250, 0x89d548, 0x95d840,
    0xa2da37, 0xb0dd2f, 0xbddf26, 0xcae11f, 0xd8e219, 0xe5e419, 0xf1e51d, 0xfde725,
};

const struct rgb colormap_hatch_ground = {0xdc, 0xdc, 0xdc}, colormap_hatch_line = {0x9c, 0x9c, 0x9c};

static uint8_t mix(uint32_t a, uint32_t b, int shift, double t) {
    double x = (double)(a >> shift & 255), y = (double)(b >> shift & 255);
    return (uint8_t)(x + t * (y - x) + 0.5);
}

static struct rgb viridis_at(double t) {
    const size_t last = sizeof viridis / sizeof *viridis - 1;
    double place = t * (double)last;
    size_t i = place >= (double)last ? last - 1 : (size_t)place;
    double part = place - (double)i;
    return (struct rgb){mix(viridis[i], viridis[i + 1], 16, part), mix(viridis[i], viridis[i + 1], 8, part),
                        mix(viridis[i], viridis[i + 1], 0, part)};
}

static uint8_t srgb_encode(double linear) {
    double x = linear <= 0.0031308 ? 12.92 * linear : 1.055 * pow(linear, 1 / 2.4) - 0.055;
    return (uint8_t)(fmin(fmax(x, 0), 1) * 255 + 0.5);
}

/* OKLab to sRGB: https://bottosson.github.io/posts/oklab/ */
static struct rgb oklab(double lightness, double a, double b) {
    double l = pow(lightness + 0.3963377774 * a + 0.2158037573 * b, 3);
    double m = pow(lightness - 0.1055613458 * a - 0.0638541728 * b, 3);
    double s = pow(lightness - 0.0894841775 * a - 1.2914855480 * b, 3);
    return (struct rgb){srgb_encode(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
                        srgb_encode(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
                        srgb_encode(-0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s)};
}

static struct rgb diverging_at(double t) {
    const double blue = 255, orange = 45, degree = 3.14159265358979323846 / 180;
    double strength = fabs(2 * t - 1), hue = (t < 0.5 ? blue : orange) * degree;
    double chroma = 0.13 * fmin(1, 1.6 * strength);
    return oklab(0.96 - 0.52 * strength, chroma * cos(hue), chroma * sin(hue));
}

struct rgb colormap_at(enum colormap map, double t) {
    ASSERT(!isnan(t));
    t = fmin(fmax(t, 0), 1);
    return map == COLORMAP_VIRIDIS ? viridis_at(t) : diverging_at(t);
}

struct rgb colormap_hatch(unsigned x, unsigned y, unsigned period) {
    return (x + y) % period < (period + 2) / 3 ? colormap_hatch_line : colormap_hatch_ground;
}

static double srgb_decode(uint8_t value) {
    double x = value / 255.0;
    return x <= 0.04045 ? x / 12.92 : pow((x + 0.055) / 1.055, 2.4);
}

double rgb_luminance(struct rgb color) {
    return 0.2126 * srgb_decode(color.r) + 0.7152 * srgb_decode(color.g) + 0.0722 * srgb_decode(color.b);
}

bool rgb_wants_white(struct rgb ground) {
    double l = rgb_luminance(ground) + 0.05;
    return 1.05 / l > l / 0.05;
}

static int square(int x) {
    return x * x;
}

static int distance(struct rgb color, int r, int g, int b) {
    return square(color.r - r) + square(color.g - g) + square(color.b - b);
}

/* Index of the nearest level of the cube, 0 95 135 175 215 255. */
static int cube_index(uint8_t value) {
    return value < 48 ? 0 : value < 115 ? 1 : (value - 35) / 40;
}

static int cube_level(int index) {
    return index ? 55 + 40 * index : 0;
}

int rgb_xterm(struct rgb color) {
    int r = cube_index(color.r), g = cube_index(color.g), b = cube_index(color.b);
    int mean = (color.r + color.g + color.b) / 3;
    int step = mean < 8 ? 0 : mean > 238 ? 23 : (mean - 3) / 10;
    int grey = 8 + 10 * step;
    if (distance(color, grey, grey, grey) < distance(color, cube_level(r), cube_level(g), cube_level(b)))
        return 232 + step;
    return 16 + 36 * r + 6 * g + b;
}
