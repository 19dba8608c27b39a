/* SPDX-License-Identifier: Apache-2.0 */
#include "packet/checksum.h"

#include "harness.h"
#include "twin.h"

static uint8_t data[9001 + 8], copy[9001 + 8];

static void every_length_equals_the_slow_twin(void)
{
	random_fill(data, sizeof(data));
	for (uint32_t len = 0; len <= 9001; len++) {
		uint32_t shift = len % 8;
		uint16_t expected = twin_checksum(data + shift, len, 0);
		uint8_t stored[2];

		checksum_store(stored, (uint16_t)~checksum_fold(checksum_sum(data + shift, len)));
		CHECK(load16(stored) == expected);
		checksum_store(stored, (uint16_t)~checksum_fold(checksum_copy(copy + shift, data + shift, len)));
		CHECK(load16(stored) == expected);
		CHECK(memcmp(copy + shift, data + shift, len) == 0);
	}
}

static void all_ones_never_overflow(void)
{
	memset(data, 0xff, sizeof(data));
	for (uint32_t len = 2; len <= 9000; len += 2)
		CHECK(checksum_fold(checksum_sum(data, len)) == 0xffff);
}

static void replacing_a_word_equals_summing_again(void)
{
	for (int i = 0; i < 100000; i++) {
		uint8_t header[20], fresh[2], replaced[2];
		uint16_t old_word;

		random_fill(header, sizeof(header));
		header[10] = header[11] = 0;
		store16(header + 10, twin_checksum(header, 20, 0));
		old_word = checksum_load(header);
		random_fill(header, 2);
		checksum_store(replaced, checksum_replace(checksum_load(header + 10), old_word, checksum_load(header)));
		header[10] = header[11] = 0;
		store16(fresh, twin_checksum(header, 20, 0));
		CHECK(memcmp(fresh, replaced, 2) == 0);
	}
}

int main(void)
{
	harness_begin();
	RUN(every_length_equals_the_slow_twin);
	RUN(all_ones_never_overflow);
	RUN(replacing_a_word_equals_summing_again);
	return harness_end();
}
