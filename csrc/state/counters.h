/* SPDX-License-Identifier: Apache-2.0 */
/* Counters: each worker writes its own, anybody reads.
 *
 * A counter has one writer, so adding is a plain load and store; relaxed atomics only make the reader's view of the 64 bits
 * whole, and cost nothing on 64-bit machines.
 */
#ifndef COUNTERS_H
#define COUNTERS_H

#include <stdint.h>

static inline void count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

static inline uint64_t counter_read(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

#endif
