/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes in network order, and the limits that every stage shares.
 *
 * Packets lie unaligned in their buffers (an encap header of 22 bytes stands before them), so every multi-byte field is
 * read and written through memcpy; the compiler makes one instruction of it.
 */
#ifndef PACKET_H
#define PACKET_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
	packet_max = 65535,     /* an IP packet's total length is 16 bits */
	header_max = 60 + 60,   /* IPv4 with options, TCP with options; longer ones are never segmented or joined */
	ipv4_header = 20,
	ipv6_header = 40,
	udp_header = 8,
	tcp_header = 20,
};

static inline uint16_t load16(const uint8_t *at)
{
	uint16_t value;

	memcpy(&value, at, sizeof(value));
	return __builtin_bswap16(value);
}

static inline uint32_t load32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return __builtin_bswap32(value);
}

static inline void store16(uint8_t *at, uint16_t value)
{
	value = __builtin_bswap16(value);
	memcpy(at, &value, sizeof(value));
}

static inline void store32(uint8_t *at, uint32_t value)
{
	value = __builtin_bswap32(value);
	memcpy(at, &value, sizeof(value));
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "load16/store16 swap; a big-endian build needs its own");

#endif
