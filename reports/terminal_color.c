#include "reports/terminal_color.h"

void terminal_put_color(struct str *out, struct rgb c, bool ground, bool truecolor) {
    if (truecolor)
        str_printf(out, "\033[%d;2;%d;%d;%dm", ground ? 48 : 38, c.r, c.g, c.b);
    else
        str_printf(out, "\033[%d;5;%dm", ground ? 48 : 38, rgb_xterm(c));
}

void terminal_put_plain(struct str *out) {
    str_puts(out, "\033[0m");
}
