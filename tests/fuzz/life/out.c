/* SPDX-License-Identifier: Apache-2.0 */
/* A pod's packets, as a TUN's queue gives them. */
#include "edges/tun.h"
#include "life/steps.h"

static bool is_usual(const struct look *look, const struct virtio_net_hdr *offload)
{
	return look->proto && offload->csum_start == look->l4 && offload->csum_start + offload->csum_offset == look_checksum_at(look);
}

static void offer_out(struct play *play, uint8_t *data, uint32_t len, const struct virtio_net_hdr *offload)
{
	struct item *item = add_item(&play->kernel.tun[play->queue]);
	bool vnet_hdr = play->kernel.dp->config.vnet_hdr;
	struct look look;

	*item = (struct item){.data = data, .len = len, .offload = *offload};
	if (vnet_hdr && offload->flags && look_at(data, len, &look) && !is_usual(&look, offload))
		play->is_unordered = true;
	judge_out(&play->verdict, &play->rules, data, len, vnet_hdr ? offload : NULL);
}

void step_out(struct play *play, bool is_raw)
{
	static const uint8_t types[8] = {0, 0, 0, 0, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_GSO_UDP, 0x7f};
	struct made made = {0};
	struct virtio_net_hdr offload = {0};
	uint32_t how = take8(play), gso_size = take16(play), len, segments = 1;
	uint8_t *data;

	if (is_raw)
		len = take16(play);
	else
		made = make_spec(play, false), len = ipv6_header + tcp_header + made.spec.options + made.spec.payload;
	if (is_raw && len > (uint32_t)(play->end - play->at))
		len = (uint32_t)(play->end - play->at);
	if (how & 3 && !(how & 0x40)) /* mostly what a device would say */
		gso_size = gso_size % 1500 + 1;
	if (how & 7 && gso_size)
		segments = len / gso_size + 1;
	if (!len || !afford(play, segments, len + segments * header_max))
		return;
	data = allot(play, len);
	if (is_raw) {
		memcpy(data, play->at, len);
		play->at += len;
	} else {
		len = twin_packet(data, &made.spec, (uint8_t)made.seed);
	}
	if (how & 0x80)
		mutate(play, data, len, len, 0);
	if (how & 7) {
		struct look look;

		offload.gso_type = types[how & 7];
		offload.gso_size = (uint16_t)gso_size;
		if (!offload.gso_type && look_at(data, len, &look))
			offload.gso_type = look.proto == proto_udp ? VIRTIO_NET_HDR_GSO_UDP_L4 : VIRTIO_NET_HDR_GSO_TCPV4;
		if ((how & 7) == 3)
			offload.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
	}
	if (how & 8) {
		bool is_udp = made.spec.proto == proto_udp;
		uint32_t l4 = made.spec.version == 6 ? ipv6_header : ipv4_header;

		offload.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		offload.csum_start = (uint16_t)(how & 0x10 ? take16(play) : l4);
		offload.csum_offset = (uint16_t)(how & 0x20 ? take16(play) : is_udp ? 6 : 16);
		if (!is_raw && len > l4 + 18)
			store16(data + l4 + (is_udp ? 6 : 16), (uint16_t)twin_pseudo(data, len - l4, made.spec.proto));
	}
	offer_out(play, data, len, &offload);
}
