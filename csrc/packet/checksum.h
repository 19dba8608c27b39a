/* SPDX-License-Identifier: Apache-2.0 */
/* The Internet checksum (RFC 1071): sums in memory order, folded once at the end.
 *
 * A running sum is a plain 64-bit integer of 16-bit words as the machine loads them. Sums of parts may be added as long as
 * every part but the last has an even length. checksum_fold gives the 16 bits in memory order, ready to be stored with
 * memcpy semantics (checksum_store), never byte-swapped by hand.
 */
#ifndef CHECKSUM_H
#define CHECKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Sum of len bytes; an odd last byte counts as if a zero byte followed. */
uint64_t checksum_sum(const uint8_t *data, size_t len);

/* The same sum, copying the bytes from data to out in the one pass over them. */
uint64_t checksum_copy(uint8_t *out, const uint8_t *data, size_t len);

/* The two 16-bit halves of a big-endian number as it would lie in memory: for pseudo-header fields. */
static inline uint64_t checksum_be16(uint16_t value)
{
	return __builtin_bswap16(value);
}

static inline uint16_t checksum_fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static inline uint16_t checksum_load(const uint8_t *at)
{
	uint16_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

static inline void checksum_store(uint8_t *at, uint16_t value)
{
	memcpy(at, &value, sizeof(value));
}

/* Replace one 16-bit word under a checksum (RFC 1624 equation 3); all three in memory order. */
static inline uint16_t checksum_replace(uint16_t checksum, uint16_t old_word, uint16_t new_word)
{
	return (uint16_t)~checksum_fold((uint64_t)(uint16_t)~checksum + (uint16_t)~old_word + new_word);
}

#endif
