/* SPDX-License-Identifier: Apache-2.0 */
/* The least test harness: CHECK names file and line, RUN names the case, random input has a printed seed.
 *
 * Replay a failure with DATAPLANE_SEED=<seed> in the environment.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"

static uint64_t harness_state;
static int harness_passed;

#define RUN(function)                                \
	do {                                         \
		function();                          \
		printf("ok %s\n", #function);        \
		harness_passed++;                    \
	} while (0)

static inline void harness_begin(void)
{
	const char *given = getenv("DATAPLANE_SEED");

	harness_state = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 2654435761u;
	printf("DATAPLANE_SEED=%llu\n", (unsigned long long)harness_state);
}

static inline int harness_end(void)
{
	printf("%d passed, 0 failed\n", harness_passed);
	return 0;
}

/* splitmix64 */
static inline uint64_t random64(void)
{
	uint64_t z = (harness_state += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static inline uint32_t random_below(uint32_t limit)
{
	return (uint32_t)(random64() % limit);
}

static inline void random_fill(uint8_t *out, size_t len)
{
	for (size_t i = 0; i < len; i++)
		out[i] = (uint8_t)random64();
}

#endif
