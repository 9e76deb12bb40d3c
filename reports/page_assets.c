/* The style sheet and the script of the page, taken in as they are by the assembler. The Makefile computes their hashes,
 * tests/test_page.c computes them again. */
#include "reports/page.h"
#include "reports/page_assets.h"

__asm__(".pushsection .rodata\n"
        ".globl page_style\n"
        ".type page_style, %object\n"
        "page_style: .incbin \"reports/page.css\"\n"
        ".byte 0\n"
        ".size page_style, . - page_style\n"
        ".globl page_script\n"
        ".type page_script, %object\n"
        "page_script: .incbin \"reports/page.js\"\n"
        ".byte 0\n"
        ".size page_script, . - page_script\n"
        ".popsection");

const char page_policy[] = "default-src 'none'; img-src data:; style-src " PAGE_STYLE_HASH "; script-src " PAGE_SCRIPT_HASH
                           "; base-uri 'none'; form-action 'none'";
