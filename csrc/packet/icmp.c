/* SPDX-License-Identifier: Apache-2.0 */
#include "packet/icmp.h"

#include "packet/checksum.h"

enum { icmp_header = 8 };

static bool is_error_message(const struct ip *ip)
{
	if (ip->version == 6)
		return ip->icmp_type >= 0 && (ip->icmp_type < 128 || ip->icmp_type == 137);
	return ip->icmp_type == 3 || ip->icmp_type == 4 || ip->icmp_type == 5 || ip->icmp_type == 11 || ip->icmp_type == 12;
}

static bool may_answer(const struct ip *offender)
{
	if (offender->version == 4) {
		const uint8_t *source = ip_source(offender);

		if (load16(offender->data + 6) & 0x1fff)
			return false;
		if (source[0] == 127)
			return false;
	}
	return !is_error_message(offender) && !ip_is_group(ip_source(offender), offender->version) &&
	       !ip_is_group(ip_destination(offender), offender->version);
}

static uint32_t build4(uint8_t *out, enum icmp_error error, const struct ip *offender, const uint8_t *source, uint32_t mtu)
{
	static const uint8_t type_code[icmp_errors][2] = {[icmp_no_route] = {3, 0}, [icmp_ttl_exceeded] = {11, 0}, [icmp_too_big] = {3, 4}};
	uint32_t quote = offender->header_len + 8u;
	uint8_t *icmp = out + ipv4_header;

	if (quote > offender->len)
		quote = offender->len;

	uint32_t len = ipv4_header + icmp_header + quote;

	memset(out, 0, ipv4_header + icmp_header);
	out[0] = 0x45;
	out[8] = 8;
	out[9] = proto_icmp;
	memcpy(out + 12, source, 4);
	memcpy(out + 16, ip_source(offender), 4);
	store16(out + 2, (uint16_t)len);
	checksum_store(out + 10, (uint16_t)~checksum_fold(checksum_sum(out, ipv4_header)));
	memcpy(icmp, type_code[error], 2);
	if (error == icmp_too_big)
		store16(icmp + 6, (uint16_t)mtu); /* RFC 1191 section 4 */
	memcpy(icmp + icmp_header, offender->data, quote);
	checksum_store(icmp + 2, (uint16_t)~checksum_fold(checksum_sum(icmp, icmp_header + quote)));
	return len;
}

static uint32_t build6(uint8_t *out, enum icmp_error error, const struct ip *offender, const uint8_t *source, uint32_t mtu)
{
	static const uint8_t type_code[icmp_errors][2] = {[icmp_no_route] = {1, 0}, [icmp_ttl_exceeded] = {3, 0}, [icmp_too_big] = {2, 0}};
	uint32_t quote = offender->len;
	uint8_t *icmp = out + ipv6_header;

	if (quote > icmp_max - ipv6_header - icmp_header)
		quote = icmp_max - ipv6_header - icmp_header;

	uint32_t icmp_len = icmp_header + quote;

	memset(out, 0, ipv6_header + icmp_header);
	out[0] = 0x60;
	store16(out + 4, (uint16_t)icmp_len);
	out[6] = proto_icmpv6;
	out[7] = 64;
	memcpy(out + 8, source, 16);
	memcpy(out + 24, ip_source(offender), 16);
	memcpy(icmp, type_code[error], 2);
	if (error == icmp_too_big)
		store32(icmp + 4, mtu); /* RFC 4443 section 3.2 */
	memcpy(icmp + icmp_header, offender->data, quote);

	uint64_t sum = checksum_sum(out + 8, 32) + checksum_be16((uint16_t)icmp_len) + checksum_be16(proto_icmpv6);

	checksum_store(icmp + 2, (uint16_t)~checksum_fold(sum + checksum_sum(icmp, icmp_len)));
	return ipv6_header + icmp_len;
}

uint32_t icmp_build(uint8_t *out, enum icmp_error error, const struct ip *offender, const struct dp_address *source, uint32_t mtu)
{
	if (source->family != offender->version || !may_answer(offender))
		return 0;
	if (offender->version == 4)
		return build4(out, error, offender, source->bytes, mtu);
	return build6(out, error, offender, source->bytes, mtu);
}

bool icmp_is_router_message(const struct ip *ip)
{
	return ip->version == 6 ? ip->icmp_type == 134 || ip->icmp_type == 137 : ip->icmp_type == 5;
}
