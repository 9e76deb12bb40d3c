/* clock.h - time. */
#ifndef SPKV_BASE_CLOCK_H
#define SPKV_BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_us(void); /* monotonic, microseconds */

/* The present moment as "2026-05-13T09:30:00Z". */
void clock_utc(char out[32]);

/* A duration for people: "850 ms", "12.3 s", "4 min 10 s", "3 h 05 min". */
void clock_format_duration(double seconds, char out[32]);

#endif
