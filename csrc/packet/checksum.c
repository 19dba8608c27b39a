/* SPDX-License-Identifier: Apache-2.0 */
#include "packet/checksum.h"

/* On x86-64 the loops are built twice and chosen at load time; the sanitizers' runtime is not ready that early. */
#if defined(__x86_64__) && defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
	!defined(__clang__)
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

/* 32-bit words into 64-bit lanes cannot overflow below 16 GiB, and vectorise well. */
WIDE uint64_t checksum_sum(const uint8_t *data, size_t len)
{
	uint64_t sum = 0;
	size_t words = len / 4;

	for (size_t i = 0; i < words; i++) {
		uint32_t word;

		memcpy(&word, data + 4 * i, sizeof(word));
		sum += word;
	}
	for (size_t i = 4 * words; i < len; i++)
		sum += (uint64_t)data[i] << (i % 2 ? 8 : 0);
	return sum;
}

WIDE uint64_t checksum_copy(uint8_t *restrict out, const uint8_t *restrict data, size_t len)
{
	uint64_t sum = 0;
	size_t words = len / 4;

	for (size_t i = 0; i < words; i++) {
		uint32_t word;

		memcpy(&word, data + 4 * i, sizeof(word));
		memcpy(out + 4 * i, &word, sizeof(word));
		sum += word;
	}
	for (size_t i = 4 * words; i < len; i++) {
		out[i] = data[i];
		sum += (uint64_t)data[i] << (i % 2 ? 8 : 0);
	}
	return sum;
}
