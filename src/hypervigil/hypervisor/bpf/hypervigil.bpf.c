// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * One program for what a VM sends (ingress of its tap) and one for what it receives (egress of its tap).
 * Headers only, read by copy: a guest chooses how much of a frame is linear. What cannot be read is dropped.
 * Everything is counted before any limit acts, so that the judge sees what was attempted.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "hypervigil.h"

#define PASS -1			/* TCX_NEXT: on to the next program and the bridge */
#define DROP 2			/* TCX_DROP */
#define ETH_HLEN 14
#define ETH_IPV4 0x0800
#define ETH_ARP 0x0806
#define ETH_RARP 0x8035
#define ETH_IPV6 0x86dd
#define WINDOW_NS 100000000ULL
#define SECOND_NS 1000000000ULL
#define MAX_EXTENSIONS 6
/* Keep a checked value in a register: the verifier forgets what it knew of memory. */
#define KEEP(x) asm volatile("" : "+r"(x))

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1024); __type(key, __u32); __type(value, struct hv_port); } hv_ports SEC(".maps");
/* The same without a call, for devices whose index is not beyond the array; two copies for each slot, so that a change is one word. */
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, HV_NEAR); __type(key, __u32); __type(value, __u32); } hv_near SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 2048); __type(key, __u32); __type(value, struct hv_port); } hv_copies SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 1024); __type(key, __u32); __type(value, struct hv_counters); } hv_counters SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1024); __type(key, __u32); __type(value, struct hv_limits); } hv_limits SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1024); __type(key, __u32); __type(value, struct hv_buckets); } hv_buckets SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 65536); __type(key, struct hv_peer_key); __type(value, struct hv_peer); } hv_peers SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4096); __type(key, struct hv_source_key); __type(value, struct hv_source); } hv_sources SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1024); __type(key, __u32); __type(value, struct hv_tripwires); } hv_tripwires SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1024); __type(key, __u32); __type(value, struct hv_windows); } hv_windows SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 65536); } hv_events SEC(".maps");

struct frame {
	struct hv_address source, destination;
	__u32 traffic;
	__u32 forged;		/* HV_FORGED_KINDS: not forged */
	__u32 packets;
	__u32 repeated;		/* octets of headers that it will have more than once on the wire */
	__u32 l4;		/* offset of the transport header; 0: there is none to read */
	__u32 fragment_id;
	__u16 ethertype;
	__u16 source_port, destination_port;
	__u8 protocol;
	__u8 icmp_type;
	__u8 fragment;
	__u8 multicast;
	__u8 stranger;		/* no frame to this destination was let through yet */
	__u8 ends;		/* TCP: it has a FIN. MACs are compared two bytes at a time, so they begin at an even place */
	__u8 source_mac[6], destination_mac[6];
};

struct ipv4 { __u8 version_ihl, tos; __be16 length, id, fragment; __u8 ttl, protocol; __be16 checksum; __u8 source[4], destination[4]; };
struct ipv6 { __be32 version; __be16 length; __u8 next, hops; __u8 source[16], destination[16]; };
struct arp { __be16 hardware, protocol; __u8 hardware_length, protocol_length; __be16 operation; __u8 sender_mac[6], sender[4], target_mac[6], target[4]; } __attribute__((packed));

/* What a message of DHCP says in its options; at and end: of those that are left. */
struct dhcp { __u32 at, end, seen, message, lease_s; __u8 requested[4]; };

/* Kept off the stack, which is 512 bytes for everything. */
struct scratch {
	struct frame frame;
	struct hv_peer peer;
	struct hv_flow_key flow;
	struct hv_range_key range;
	struct hv_local_key local, former;
	struct hv_dialogue_key dialogue;
	struct hv_dialogue opening;
	struct hv_greeter_key greeter;
	struct hv_greeter greeted;
	struct dhcp dhcp;
	__u8 own[4], yours[4];	/* of a message of DHCP: the address that a client has, and the one that it is given */
	__u64 now;
	__u64 word;
	__u32 slot, direction, octets, ticket, to;
	__u32 proof;		/* enum proof: whether this frame is kept from its port */
	__u32 elsewhere;	/* whether the frame is for nobody on the host itself */
	__u64 tick, moment;	/* of the kernel's tick that this CPU is in: what the clock said first in it */
	__u64 window, window_end, second, second_end;	/* of this CPU's last look at the clock: a division costs ten times as much */
	union { struct ipv4 ipv4; struct ipv6 ipv6; struct arp arp; __u8 bytes[40]; struct hv_address address; } raw;
};
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, struct scratch); } hv_scratch SEC(".maps");

static __always_inline void from_ipv4(struct hv_address *to, const __u8 *four)
{
	__builtin_memset(to, 0, sizeof(*to));
	to->bytes[10] = 0xff;
	to->bytes[11] = 0xff;
	__builtin_memcpy(&to->bytes[12], four, 4);
}

static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]));
}

static __always_inline int same_address(const struct hv_address *a, const struct hv_address *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;
	return x[0] == y[0] && x[1] == y[1];
}

static __always_inline int is_zero(const struct hv_address *a, int from)
{
	__u8 any = 0;
#pragma unroll
	for (int i = 0; i < 16; i++)
		if (i >= from)
			any |= a->bytes[i];
	return !any;
}

static __always_inline int among(const struct hv_address *set, __u32 count, const struct hv_address *one)
{
#pragma unroll
	for (int i = 0; i < HV_ADDRESSES; i++)
		if (i < count && same_address(&set[i], one))
			return 1;
	return 0;
}

static __always_inline __u32 tcp_class(__u8 flags)
{
	if (flags & 0x04)
		return HV_RST;
	if ((flags & 0x12) == 0x12)
		return HV_SYNACK;
	return flags & 0x02 ? HV_SYN : HV_TCP;
}

/*
 * Read the transport header that begins at f->l4. Returns 0 when it cannot be read: also a first fragment must hold it
 * (RFC 7112), else what it hides from us, such as a router advertisement, is put together again at the receiver.
 */
static __always_inline int read_transport(struct __sk_buff *skb, struct scratch *s, __u32 *header_end)
{
	struct frame *f = &s->frame;
	__u8 *b = s->raw.bytes;

	switch (f->protocol) {
	case 6:
		if (bpf_skb_load_bytes(skb, f->l4, b, 14))
			return 0;
		f->source_port = b[0] << 8 | b[1];
		f->destination_port = b[2] << 8 | b[3];
		f->traffic = tcp_class(b[13]);
		f->ends = b[13] & 1;
		*header_end = f->l4 + (b[12] >> 4) * 4;
		return 1;
	case 17:
		if (bpf_skb_load_bytes(skb, f->l4, b, 8))
			return 0;
		f->source_port = b[0] << 8 | b[1];
		f->destination_port = b[2] << 8 | b[3];
		f->traffic = f->source_port == 53 || f->destination_port == 53 ? HV_DNS : HV_UDP;
		*header_end = f->l4 + 8;
		return 1;
	case 1:
	case 58:
		if (bpf_skb_load_bytes(skb, f->l4, b, 4))
			return 0;
		f->icmp_type = b[0];
		f->traffic = HV_ICMP;
		if (f->protocol == 58 && f->icmp_type >= 133 && f->icmp_type <= 137)
			f->traffic = HV_ARP;
		return 1;
	}
	f->traffic = HV_OTHER;
	return 1;
}

/* What of a transport header must lie within a first fragment; of what is not read further, nothing. */
static __always_inline __u32 transport_length(__u8 protocol)
{
	return protocol == 6 ? 14 : protocol == 17 ? 8 : protocol == 1 || protocol == 58 ? 4 : 0;
}

static __always_inline int read_ipv4(struct __sk_buff *skb, struct scratch *s, __u32 *header_end)
{
	struct frame *f = &s->frame;
	struct ipv4 *ip = &s->raw.ipv4;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, ip, sizeof(*ip)))
		return 0;
	if ((ip->version_ihl >> 4) != 4 || (ip->version_ihl & 15) < 5)
		return 0;
	from_ipv4(&f->source, ip->source);
	from_ipv4(&f->destination, ip->destination);
	f->protocol = ip->protocol;
	f->fragment = (ip->fragment & bpf_htons(0x3fff)) != 0;
	f->fragment_id = ip->id;
	f->l4 = ETH_HLEN + (ip->version_ihl & 15) * 4;
	*header_end = f->l4;
	if (ip->fragment & bpf_htons(0x1fff)) {
		f->l4 = 0;
		return 1;
	}
	if (f->fragment && f->l4 + transport_length(f->protocol) > ETH_HLEN + bpf_ntohs(ip->length))
		return 0;	/* what lies behind a fragment's end is no part of what its receiver puts together */
	return read_transport(skb, s, header_end);
}

static __always_inline int read_ipv6(struct __sk_buff *skb, struct scratch *s, __u32 *header_end)
{
	struct frame *f = &s->frame;
	struct ipv6 *ip = &s->raw.ipv6;
	__u32 at = ETH_HLEN + sizeof(*ip), end;
	__u8 next, *b = s->raw.bytes;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, ip, sizeof(*ip)))
		return 0;
	if ((b[0] >> 4) != 6)
		return 0;
	__builtin_memcpy(f->source.bytes, ip->source, 16);
	__builtin_memcpy(f->destination.bytes, ip->destination, 16);
	next = ip->next;
	end = at + bpf_ntohs(ip->length);
#pragma unroll
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (next != 0 && next != 43 && next != 60 && next != 44 && next != 51)
			break;
		if (bpf_skb_load_bytes(skb, at, b, 4))
			return 0;
		if (next == 44) {
			f->fragment = 1;
			bpf_skb_load_bytes(skb, at + 4, &f->fragment_id, 4);
			if ((b[2] << 8 | b[3]) & 0xfff8) {
				*header_end = at + 8;
				return 1;
			}
			at += 8;
		} else if (next == 51) {
			at += (b[1] + 2) * 4;
		} else {
			at += (b[1] + 1) * 8;
		}
		next = b[0];
	}
	if (next == 0 || next == 43 || next == 60 || next == 44 || next == 51)
		return 0;	/* more extension headers than anybody honest sends */
	if (f->fragment && at + transport_length(next) > end)
		return 0;	/* see read_ipv4 */
	f->protocol = next;
	f->l4 = at;
	*header_end = at;
	return read_transport(skb, s, header_end);
}

/*
 * The commonest headers, where they are linear, without a call: IPv4 without options or IPv6 without extensions, whole, and
 * TCP or UDP. Returns 0 when it is anything else, which is then read by copy.
 */
static __always_inline int read_linear(struct __sk_buff *skb, struct frame *f, __u32 *header_end)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const __u8 *b = data, *l4;

	if (data + ETH_HLEN + 20 + 20 > end)
		return 0;
	if (b[12] == 0x08 && b[13] == 0x00) {
		const struct ipv4 *ip = data + ETH_HLEN;

		if (ip->version_ihl != 0x45 || (ip->fragment & bpf_htons(0x3fff)))
			return 0;
		f->protocol = ip->protocol;
		from_ipv4(&f->source, ip->source);
		from_ipv4(&f->destination, ip->destination);
		l4 = data + ETH_HLEN + 20;
		f->l4 = ETH_HLEN + 20;
		f->ethertype = ETH_IPV4;
	} else if (b[12] == 0x86 && b[13] == 0xdd) {
		const struct ipv6 *ip = data + ETH_HLEN;

		if (data + ETH_HLEN + 40 + 20 > end || (b[ETH_HLEN] >> 4) != 6)
			return 0;
		f->protocol = ip->next;
		__builtin_memcpy(f->source.bytes, ip->source, 16);
		__builtin_memcpy(f->destination.bytes, ip->destination, 16);
		l4 = data + ETH_HLEN + 40;
		f->l4 = ETH_HLEN + 40;
		f->ethertype = ETH_IPV6;
	} else {
		return 0;
	}
	if (f->protocol == 6) {
		*header_end = f->l4 + (l4[12] >> 4) * 4;
		f->traffic = tcp_class(l4[13]);
		f->ends = l4[13] & 1;
	} else if (f->protocol == 17) {
		*header_end = f->l4 + 8;
		f->traffic = HV_UDP;
	} else {
		return 0;
	}
	f->source_port = l4[0] << 8 | l4[1];
	f->destination_port = l4[2] << 8 | l4[3];
	if (f->protocol == 17 && (f->source_port == 53 || f->destination_port == 53))
		f->traffic = HV_DNS;
	__builtin_memcpy(f->destination_mac, b, 6);
	__builtin_memcpy(f->source_mac, b + 6, 6);
	f->multicast = b[0] & 1;
	f->fragment_id = 0;
	f->icmp_type = 0;
	f->fragment = 0;
	f->stranger = 0;
	f->forged = HV_FORGED_KINDS;
	return 1;
}

/* What a frame is by more than its transport header, and how many packets and octets it will be on the wire. */
static __always_inline void classify(struct __sk_buff *skb, struct frame *f, __u32 header_end)
{
	if (f->traffic != HV_ARP) {
		if (f->multicast)
			f->traffic = HV_MULTICAST;
		else if (f->fragment)
			f->traffic = HV_FRAGMENT;
	}
	f->packets = 1;
	if (skb->gso_size && skb->len > header_end)
		f->packets = (skb->len - header_end + skb->gso_size - 1) / skb->gso_size;
	f->repeated = (f->packets - 1) * header_end;
}

static __noinline int read_by_copy(struct __sk_buff *skb, struct scratch *s)
{
	struct frame *f = &s->frame;
	__u8 *ethernet = s->raw.bytes;
	__u32 header_end = 0;

	__builtin_memset(f, 0, sizeof(*f));
	f->packets = 1;
	f->traffic = HV_OTHER;
	f->forged = HV_FORGED_KINDS;
	if (bpf_skb_load_bytes(skb, 0, ethernet, ETH_HLEN))
		return 0;
	__builtin_memcpy(f->destination_mac, ethernet, 6);
	__builtin_memcpy(f->source_mac, ethernet + 6, 6);
	f->ethertype = ethernet[12] << 8 | ethernet[13];
	f->multicast = ethernet[0] & 1;
	if (f->multicast)
		f->traffic = HV_MULTICAST;
	__builtin_memcpy(&f->destination.bytes[10], ethernet, 6);
	__builtin_memcpy(&f->source.bytes[10], ethernet + 6, 6);
	switch (f->ethertype) {
	case ETH_ARP:
		f->traffic = HV_ARP;
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &s->raw.arp, sizeof(s->raw.arp)))
			return 0;
		from_ipv4(&f->source, s->raw.arp.sender);
		from_ipv4(&f->destination, s->raw.arp.target);
		return 1;
	case ETH_IPV4:
		if (!read_ipv4(skb, s, &header_end))
			return 0;
		break;
	case ETH_IPV6:
		if (!read_ipv6(skb, s, &header_end))
			return 0;
		break;
	default:
		return 1;
	}
	classify(skb, f, header_end);
	return 1;
}

/* Fill ``s->frame``. Returns 0 when a header that we must know cannot be read. */
static __always_inline int read_frame(struct __sk_buff *skb, struct scratch *s)
{
	__u32 header_end;

	if (!read_linear(skb, &s->frame, &header_end))
		return read_by_copy(skb, s);
	classify(skb, &s->frame, header_end);
	return 1;
}

/* Whether a kind of forgery is checked here: all are, but for those that the policy makes this VM's business by name. */
#define CHECKED(kind) (!(port->unchecked & 1u << (kind)))

/* An address that others may have too, with the MAC that comes with it (of a virtual router, say). */
static __always_inline int paired(const struct hv_port *port, const struct frame *f, const struct hv_address *address)
{
#pragma unroll
	for (int i = 0; i < HV_PAIRS; i++)
		if (i < port->pairs && same_mac(port->pair[i].mac, f->source_mac) &&
		    (same_address(&port->pair[i].address, address) || among(port->address, port->addresses, address)))
			return 1;
	return 0;
}

/* Whether the port may use an address. Not static, so that it is verified once and not for each place that it is called at. */
int bound(struct scratch *s, const struct hv_port *port, const struct hv_address *address);

#include "locals.h"
#include "leases.h"

__noinline int bound(struct scratch *s, const struct hv_port *port, const struct hv_address *address)
{
	if (!s || !port || !address)
		return 0;
	if (!port->addresses && !(port->flags & HV_LEASED))
		return 1;
	return among(port->address, port->addresses, address) || (port->pairs && paired(port, &s->frame, address)) ||
	       (port->flags & HV_LEASED && leased(port, address));
}

/* Whether an IPv6 address is the port's to use; a link-local one becomes its own by being used first. */
static __always_inline int bound_ipv6(struct scratch *s, const struct hv_port *port, const struct hv_address *address)
{
	if (!link_local(address))
		return bound(s, port, address);
	if (port->pairs && paired(port, &s->frame, address))
		return 1;
	s->local.address = *address;
	return owns_local(s, port);
}

static __always_inline __u32 forged_arp(struct __sk_buff *skb, struct scratch *s, const struct hv_port *port)
{
	struct frame *f = &s->frame;
	struct arp *arp = &s->raw.arp;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, arp, sizeof(*arp)))
		return HV_F_UNREADABLE;
	if (arp->hardware != bpf_htons(1) || arp->protocol != bpf_htons(ETH_IPV4))
		return HV_F_ARP;
	if (!CHECKED(HV_F_ARP))
		return HV_FORGED_KINDS;
	/* The frame's own MAC was checked already: it is the port's, or one that was given to it. */
	if (!same_mac(arp->sender_mac, port->mac) && !(port->pairs && same_mac(arp->sender_mac, f->source_mac)))
		return HV_F_ARP;
	/*
	 * Who asks by no address whether one is free (RFC 5227) takes it as much as who speaks from it: another's probe for the
	 * same one ends the detection of whoever has a right to it. A client whose own probe is not heard finds its address free.
	 */
	if (is_zero(&f->source, 12))
		return !CHECKED(HV_F_IPV4) || bound(s, port, &f->destination) ? HV_FORGED_KINDS : HV_F_IPV4;
	return bound(s, port, &f->source) ? HV_FORGED_KINDS : HV_F_ARP;
}

/*
 * A VM that comes from another host is announced by its hypervisor, so that switches learn where it is now: to everybody, a
 * question of RARP (RFC 903) in which both MACs are its own and no address is named (announce_self_create in QEMU).
 */
static __always_inline int announces(struct __sk_buff *skb, struct scratch *s, const struct hv_port *port)
{
	const __u16 *to = (const __u16 *)s->frame.destination_mac;
	struct arp *arp = &s->raw.arp;

	return (to[0] & to[1] & to[2]) == 0xffff && !bpf_skb_load_bytes(skb, ETH_HLEN, arp, sizeof(*arp)) && arp->hardware == bpf_htons(1) &&
	       arp->protocol == bpf_htons(ETH_IPV4) && arp->operation == bpf_htons(3) && same_mac(arp->sender_mac, port->mac) &&
	       same_mac(arp->target_mac, port->mac) && !(arp->sender[0] | arp->sender[1] | arp->sender[2] | arp->sender[3] |
							     arp->target[0] | arp->target[1] | arp->target[2] | arp->target[3]);
}

static __always_inline __u32 forged_nd(struct __sk_buff *skb, struct scratch *s, const struct hv_port *port)
{
	struct frame *f = &s->frame;
	struct hv_address *target = &s->raw.address;
	__u8 *option = s->raw.bytes;

	if (f->icmp_type == 134 || f->icmp_type == 137)
		return port->flags & HV_MAY_ADVERTISE_ROUTES ? HV_FORGED_KINDS : HV_F_ROUTER_ADVERTISEMENT;
	if (!CHECKED(HV_F_ND))
		return HV_FORGED_KINDS;
	/* Who asks whether an address is free (RFC 4862) takes it as much as who speaks from it. */
	if (f->icmp_type == 136 || (f->icmp_type == 135 && is_zero(&f->source, 0))) {
		if (bpf_skb_load_bytes(skb, f->l4 + 8, target, sizeof(*target)))
			return HV_F_UNREADABLE;
		if (!bound_ipv6(s, port, target) && (f->icmp_type == 136 || CHECKED(HV_F_IPV6)))
			return f->icmp_type == 136 ? HV_F_ND : HV_F_IPV6;
	}
	if (f->icmp_type == 135 || f->icmp_type == 136) {
		if (!bpf_skb_load_bytes(skb, f->l4 + 24, option, 8) &&
		    (option[0] == 1 || option[0] == 2) && !same_mac(option + 2, port->mac) &&
		    !(port->pairs && same_mac(option + 2, f->source_mac)))
			return HV_F_ND;
	}
	return HV_FORGED_KINDS;
}

/* The commonest honest frame: TCP or UDP, and nothing of DHCP's, from the port's MAC and one of its first two addresses or a lease's. */
static __always_inline int plainly_honest(struct __sk_buff *skb, struct scratch *s, const struct hv_port *port)
{
	const struct frame *f = &s->frame;

	if (skb->vlan_present || (f->protocol != 6 && f->protocol != 17) || !f->l4 || !same_mac(f->source_mac, port->mac))
		return 0;
	if (f->protocol == 17 && (f->source_port == 67 || f->source_port == 547 || f->destination_port == 68 ||
				  f->destination_port == 546 || f->destination_port == 67))
		return 0;
	return (port->addresses > 0 && same_address(&port->address[0], &f->source)) ||
	       (port->addresses > 1 && same_address(&port->address[1], &f->source)) ||
	       ((port->flags & (HV_LEASED | HV_FREE_UNTIL_LEASED)) == HV_LEASED && leased(port, &f->source));
}

/* Whether the frame is this port's to send; the kind of forgery, or HV_FORGED_KINDS when it is honest. */
static __noinline __u32 forged(struct __sk_buff *skb, struct scratch *s, const struct hv_port *port)
{
	struct frame *f = &s->frame;

	if (!port)
		return HV_F_UNREADABLE;
	if ((skb->vlan_present || f->ethertype == 0x8100 || f->ethertype == 0x88a8) && CHECKED(HV_F_VLAN))
		return HV_F_VLAN;
	if (!same_mac(f->source_mac, port->mac) && CHECKED(HV_F_MAC) && !(port->pairs && paired(port, f, &f->source)))
		return HV_F_MAC;
	switch (f->ethertype) {
	case ETH_ARP:
		return forged_arp(skb, s, port);
	case ETH_IPV4:
		if (is_zero(&f->source, 12)) {
			if (!(f->protocol == 17 && f->l4 && f->source_port == 68 && f->destination_port == 67) && CHECKED(HV_F_IPV4))
				return HV_F_IPV4;
		} else if (!bound(s, port, &f->source) && CHECKED(HV_F_IPV4)) {
			return HV_F_IPV4;
		}
		/* Clients listen to whatever comes to their port, from whatever port it comes. */
		if (f->protocol == 17 && f->l4 && (f->source_port == 67 || f->destination_port == 68) &&
		    !(port->flags & HV_MAY_SERVE_DHCP))
			return HV_F_DHCP_SERVER;
		/*
		 * Who asks in another's name has the server give it what it did not ask for. What is in pieces or not understood may do
		 * so, or give back an address of which we would not know.
		 */
		if (port->servers && of_dhcp(f, HV_OUT) && !heed_request(skb, port) && CHECKED(HV_F_MAC))
			return HV_F_MAC;
		if (f->protocol == 1 && f->l4 && f->icmp_type == 5 && !(port->flags & HV_MAY_ADVERTISE_ROUTES))
			return HV_F_ROUTER_ADVERTISEMENT;
		return HV_FORGED_KINDS;
	case ETH_IPV6:
		if (f->protocol == 58 && f->l4 && f->icmp_type >= 133 && f->icmp_type <= 137) {
			__u32 kind = forged_nd(skb, s, port);
			if (kind != HV_FORGED_KINDS)
				return kind;
		}
		if (f->protocol == 17 && f->l4 && (f->source_port == 547 || f->destination_port == 546) &&
		    !(port->flags & HV_MAY_SERVE_DHCP))
			return HV_F_DHCP_SERVER;
		if (is_zero(&f->source, 0))
			return f->protocol == 58 || !CHECKED(HV_F_IPV6) ? HV_FORGED_KINDS : HV_F_IPV6;
		return !CHECKED(HV_F_IPV6) || bound_ipv6(s, port, &f->source) ? HV_FORGED_KINDS : HV_F_IPV6;
	}
	return CHECKED(HV_F_ETHERTYPE) && !(f->ethertype == ETH_RARP && announces(skb, s, port)) ? HV_F_ETHERTYPE : HV_FORGED_KINDS;
}

static __always_inline int in_force(const struct hv_rate *rate, __u64 now)
{
	return rate->end_ns > now && (rate->packets_per_s_x1000 || rate->octets_per_s);
}

/*
 * Tokens may go into debt by one frame, so that a frame larger than the burst (GSO) can pass and the mean stays right.
 * Burst: of packets a tenth of a second's worth; of octets a quarter, since with less TCP keeps losing whole windows and
 * gets two thirds of what it may have. The clock was read before the lock was had: another CPU's later look may have been
 * reckoned with already, and time never passes twice.
 */
static __always_inline void refill(struct hv_bucket *b, const struct hv_rate *rate, __u64 now)
{
	__u64 elapsed = now > b->last_ns ? now - b->last_ns : 0;
	__s64 burst;

	if (!elapsed)
		return;
	if (elapsed > SECOND_NS)
		elapsed = SECOND_NS;
	b->last_ns = now;
	burst = rate->packets_per_s_x1000 * 100;
	if (burst < 1000000)
		burst = 1000000;
	if (rate->packets_per_s_x1000)
		b->packets += rate->packets_per_s_x1000 * elapsed / 1000000;
	if (b->packets > burst)
		b->packets = burst;
	burst = rate->octets_per_s * 250;
	if (burst < 1600000)
		burst = 1600000;
	if (rate->octets_per_s)
		b->octets += rate->octets_per_s * (elapsed / 1000) / 1000 + rate->octets_per_s * (elapsed % 1000) / 1000000;
	if (b->octets > burst)
		b->octets = burst;
}

static __always_inline int covers(const struct hv_bucket *b, const struct hv_rate *rate)
{
	return (!rate->packets_per_s_x1000 || b->packets >= 1000000) && (!rate->octets_per_s || b->octets > 0);
}

/*
 * Time passes under the lock, once in a tick; tokens are taken without it, so that a limit costs a frame little. Two CPUs may
 * both take the last one, and what one takes just as the other fills up may be lost: a few frames in a tick, of which there
 * are hundreds in a second. A bucket pays debts back.
 */
static __always_inline struct hv_bucket *refilled(struct hv_buckets *buckets, struct hv_bucket *b, const struct hv_rate *rate, __u64 now)
{
	if (now > b->last_ns) {
		bpf_spin_lock(&buckets->lock);
		refill(b, rate, now);
		bpf_spin_unlock(&buckets->lock);
	}
	return b;
}

static __always_inline void spend(struct hv_bucket *b, const struct hv_rate *rate, __u32 packets, __u32 octets)
{
	if (rate->packets_per_s_x1000)
		__sync_fetch_and_add(&b->packets, -(__s64)packets * 1000000);
	if (rate->octets_per_s)
		__sync_fetch_and_add(&b->octets, -(__s64)octets * 1000);
}

/* A limit of class, of all classes, or of new destinations: 1 when the frame is beyond it. */
static __always_inline int beyond_limits(const struct hv_limits *limits, __u32 slot, __u32 direction, const struct frame *f, __u32 octets, __u64 now)
{
	struct hv_buckets *buckets;
	int by_class, by_all, by_fresh, beyond = 0;
	__u32 traffic = f->traffic;

	KEEP(traffic);
	if (traffic >= HV_CLASSES || direction > 1)
		return 0;
	by_class = in_force(&limits->rate[direction][traffic], now);
	by_all = in_force(&limits->rate[direction][HV_ALL], now);
	by_fresh = f->stranger && in_force(&limits->new_destinations, now);
	if (!by_class && !by_all && !by_fresh)
		return 0;
	buckets = bpf_map_lookup_elem(&hv_buckets, &slot);
	if (!buckets)
		return 0;
	if (by_class)
		beyond |= !covers(refilled(buckets, &buckets->bucket[direction][traffic], &limits->rate[direction][traffic], now),
				  &limits->rate[direction][traffic]);
	if (by_all)
		beyond |= !covers(refilled(buckets, &buckets->bucket[direction][HV_ALL], &limits->rate[direction][HV_ALL], now),
				  &limits->rate[direction][HV_ALL]);
	if (by_fresh)
		beyond |= !covers(refilled(buckets, &buckets->new_destinations, &limits->new_destinations, now),
				  &limits->new_destinations);
	if (beyond)
		return 1;
	if (by_class)
		spend(&buckets->bucket[direction][traffic], &limits->rate[direction][traffic], f->packets, octets);
	if (by_all)
		spend(&buckets->bucket[direction][HV_ALL], &limits->rate[direction][HV_ALL], f->packets, octets);
	if (by_fresh)
		spend(&buckets->new_destinations, &limits->new_destinations, 1, 0);
	return 0;
}

static __always_inline int beyond_source(__u32 slot, const struct frame *f, __u32 octets, __u64 now)
{
	struct hv_source_key key = { .slot = slot, .address = f->source };
	struct hv_source *source = bpf_map_lookup_elem(&hv_sources, &key);
	int beyond;

	if (!source)
		return 0;
	bpf_spin_lock(&source->lock);
	if (!(source->rate.end_ns > now)) {
		bpf_spin_unlock(&source->lock);
		return 0;
	}
	refill(&source->bucket, &source->rate, now);
	beyond = !source->rate.packets_per_s_x1000 || source->bucket.packets < 1000000;
	if (!beyond)
		source->bucket.packets -= (__s64)f->packets * 1000000;
	bpf_spin_unlock(&source->lock);
	return beyond;
}

static __always_inline int gated(const struct hv_limits *limits, const struct hv_port *port, __u32 direction, const struct frame *f, __u64 now)
{
	if (limits->gate == HV_OPEN || limits->gate_end_ns <= now)
		return 0;
	if (limits->gate == HV_ISOLATE)
		return 1;
	return !among(port->allow, port->allows, direction == HV_OUT ? &f->destination : &f->source);
}

/*
 * Now, as it was when this CPU first asked in the kernel's tick of 1 to 10 ms: the clock is a third of what a frame costs.
 * It is never ahead; CPUs differ by a tick at most, so whoever shares a place with others never lets time go back there.
 */
static __always_inline __u64 moment(struct scratch *s)
{
	__u64 tick = bpf_jiffies64();

	if (s->tick != tick) {
		s->tick = tick;
		s->moment = bpf_ktime_get_boot_ns();
	}
	return s->moment;
}

static __always_inline __u64 window_of(struct scratch *s, __u64 now)
{
	if (now >= s->window_end || now < s->window_end - WINDOW_NS) {
		s->window = now / WINDOW_NS;
		s->window_end = (s->window + 1) * WINDOW_NS;
	}
	return s->window;
}

static __always_inline __u32 second_of(struct scratch *s, __u64 now)
{
	if (now >= s->second_end || now < s->second_end - SECOND_NS) {
		s->second = now / SECOND_NS;
		s->second_end = (s->second + 1) * SECOND_NS;
	}
	return s->second;
}

/* Whether a limit on the port, or one on the frame's source, stops it. */
static __noinline int limited(struct scratch *s, const struct hv_port *port, const struct hv_limits *limits)
{
	__u32 slot = s->slot, direction = s->direction, octets = s->octets;
	struct frame *f = &s->frame;

	if (!port || !limits)
		return 0;
	return gated(limits, port, direction, f, s->now) || beyond_limits(limits, slot, direction, f, octets, s->now) ||
	       (direction == HV_IN && beyond_source(slot, f, octets, s->now));
}

static __always_inline void trip(__u32 slot, __u32 direction, struct scratch *s, struct hv_counters *counters, __u64 now)
{
	const struct frame *f = &s->frame;
	struct hv_tripwires *wires = bpf_map_lookup_elem(&hv_tripwires, &slot);
	struct hv_windows *windows;
	struct hv_event *event;
	__u32 traffic = f->traffic, threshold, before;
	__u64 window;

	KEEP(traffic);
	if (!wires || traffic >= HV_CLASSES || direction > 1)
		return;
	threshold = wires->packets_per_100ms[direction][traffic];
	if (!threshold)
		return;
	windows = bpf_map_lookup_elem(&hv_windows, &slot);
	if (!windows)
		return;
	window = window_of(s, now);
	if (windows->window[direction][traffic] < window) {
		windows->window[direction][traffic] = window;
		windows->count[direction][traffic] = 0;
	}
	before = windows->count[direction][traffic];
	windows->count[direction][traffic] = before + f->packets;
	if (before >= threshold || before + f->packets < threshold)
		return;
	event = bpf_ringbuf_reserve(&hv_events, sizeof(*event), 0);
	if (!event) {
		counters->events_lost++;
		return;
	}
	event->at_ns = now;
	event->slot = slot;
	event->direction = direction;
	event->traffic = traffic;
	event->count = before + f->packets;
	bpf_ringbuf_submit(event, 0);
}

/* Whether the sender begins something: SYN, echo request, or UDP towards the lower port, where services live. */
static __always_inline int opens(const struct frame *f)
{
	switch (f->traffic) {
	case HV_SYN:
		return 1;
	case HV_ICMP:
		return (f->protocol == 1 && f->icmp_type == 8) || (f->protocol == 58 && f->icmp_type == 128);
	case HV_UDP:
		return f->destination_port < f->source_port;
	case HV_DNS:
		return f->destination_port == 53;
	case HV_FRAGMENT:
	case HV_OTHER:
	case HV_MULTICAST:
		return 1;
	}
	return 0;
}

#include "dialogues.h"

/* A peer that the data plane had never seen. */
static __noinline void meet(struct __sk_buff *skb, struct scratch *s, const struct hv_peer_key *key, __u32 second, __u64 port)
{
	struct hv_peer *fresh = &s->peer;
	struct frame *f = &s->frame;

	__builtin_memset(fresh, 0, sizeof(*fresh));
	fresh->first_ns = s->now;
	fresh->last_ns = s->now;
	fresh->packets = f->packets;
	fresh->octets = s->octets;
	fresh->openings = opens(f) ? f->packets : 0;
	fresh->resets = f->traffic == HV_RST ? f->packets : 0;
	fresh->second = second;
	fresh->ports_now = port;
	__builtin_memcpy(fresh->mac, s->direction == HV_OUT ? f->destination_mac : f->source_mac, 6);
	if (of_dialogue(f, fresh))
		converse(skb, s, fresh);
	bpf_map_update_elem(&hv_peers, key, fresh, BPF_ANY);
	f->stranger = s->direction == HV_OUT;
}

/* Remember who is talked to; 1 when the data plane had never seen this peer (or has forgotten it). */
static __always_inline int remember(struct __sk_buff *skb, __u32 slot, __u32 direction, struct scratch *s, __u32 octets, __u64 now)
{
	struct frame *f = &s->frame;
	struct hv_peer_key key = { .slot = slot, .direction = direction };
	struct hv_peer *peer;
	__u64 port = 0;
	__u32 second = second_of(s, now);

	key.address = direction == HV_OUT ? f->destination : f->source;
	/* What TCP answers goes to a port that the other end chose: it was not tried. Of datagrams nobody knows. */
	if (f->destination_port && f->traffic != HV_SYNACK && f->traffic != HV_RST && f->traffic != HV_TCP)
		port = 1ULL << ((f->destination_port * 2654435761U) >> 26);
	peer = bpf_map_lookup_elem(&hv_peers, &key);
	if (!peer) {
		meet(skb, s, &key, second, port);
		return 1;
	}
	f->stranger = direction == HV_OUT && !peer->admitted;
	peer->last_ns = now;
	__sync_fetch_and_add(&peer->packets, f->packets);
	__sync_fetch_and_add(&peer->octets, octets);
	if (opens(f))
		__sync_fetch_and_add(&peer->openings, f->packets);
	if (f->traffic == HV_RST)
		__sync_fetch_and_add(&peer->resets, f->packets);
	if ((__s32)(second - peer->second) > 0) {
		peer->ports_before = peer->second + 1 == second ? peer->ports_now : 0;
		peer->ports_now = 0;
		peer->second = second;
	}
	if (!(peer->ports_now & port))
		peer->ports_now |= port;
	if (of_dialogue(f, peer))
		converse(skb, s, peer);
	return 0;
}

/* A frame passes: its destination is new no more. Else a second try would pass the limit of new destinations. */
static __always_inline void admit(__u32 slot, const struct frame *f)
{
	struct hv_peer_key key = { .slot = slot, .direction = HV_OUT, .address = f->destination };
	struct hv_peer *peer = bpf_map_lookup_elem(&hv_peers, &key);

	if (peer)
		peer->admitted = 1;
}

/* What is to be known of a readable frame beyond its class: signs of failure, and who is at the other end. */
static __always_inline void note(struct __sk_buff *skb, __u32 slot, __u32 direction, struct scratch *s, struct hv_counters *counters)
{
	struct frame *f = &s->frame;

	if (direction == HV_IN && (f->traffic == HV_RST || (f->traffic == HV_ICMP && ((f->protocol == 1 && f->icmp_type == 3) ||
										     (f->protocol == 58 && f->icmp_type == 1)))))
		counters->failures++;
	if (direction == HV_OUT && f->multicast && f->traffic != HV_ARP)
		return;
	if (remember(skb, slot, direction, s, s->octets, s->now)) {
		counters->peers_created++;
		if (direction == HV_OUT)
			counters->new_destinations++;
	}
}

static __always_inline void count(__u32 slot, __u32 direction, struct scratch *s, struct hv_counters *counters)
{
	__u32 traffic = s->frame.traffic;

	KEEP(traffic);
	if (traffic >= HV_CLASSES)
		return;
	counters->by_class[direction][traffic].packets += s->frame.packets;
	counters->by_class[direction][traffic].octets += s->octets;
	trip(slot, direction, s, counters, s->now);
}

/* All that the program at the receiver's port would do of a frame that goes straight there; 0 when it has to look itself. */
static __always_inline int receive(struct __sk_buff *skb, struct scratch *s)
{
	__u32 slot = s->to;
	struct hv_limits *limits = bpf_map_lookup_elem(&hv_limits, &slot);
	struct hv_counters *counters = bpf_map_lookup_elem(&hv_counters, &slot);

	if (!limits || limits->armed || !counters)
		return 0;
	s->slot = slot;
	s->direction = HV_IN;
	count(slot, HV_IN, s, counters);
	note(skb, slot, HV_IN, s, counters);
	return 1;
}

#include "fabric.h"
#include "proof.h"

static __always_inline struct hv_port *port_at(__u32 ifindex)
{
	__u32 *copy, index;

	if (ifindex < HV_NEAR) {
		copy = bpf_map_lookup_elem(&hv_near, &ifindex);
		index = copy ? *copy : 0;
		if (!index--)
			return 0;
		return bpf_map_lookup_elem(&hv_copies, &index);
	}
	return bpf_map_lookup_elem(&hv_ports, &ifindex);
}

static __always_inline int handle(struct __sk_buff *skb, __u32 direction)
{
	struct scratch *s;
	struct frame *f;
	__u32 slot, octets, zero = 0, traffic;
	struct hv_port *port = port_at(skb->ifindex);
	struct hv_counters *counters;
	struct hv_limits *limits;
	__u64 now;
	int readable, enforce, verdict, stranger, handed;

	if (!port)
		return PASS;
	slot = port->slot;
	counters = bpf_map_lookup_elem(&hv_counters, &slot);
	s = bpf_map_lookup_elem(&hv_scratch, &zero);
	if (!counters || !s)
		return PASS;
	f = &s->frame;
	enforce = port->mode == HV_ENFORCE;
	handed = direction == HV_IN ? handed_over(skb, s) : HV_NOT_HANDED;
	if (handed == HV_HANDED_WHOLE) {
		now = s->now;
		readable = 1;
	} else {
		now = moment(s);
		readable = read_frame(skb, s);
	}
	octets = skb->len + f->repeated;
	s->now = now;
	s->slot = slot;
	s->direction = direction;
	s->octets = octets;
	count(slot, direction, s, counters);
	if (direction == HV_OUT) {
		__u32 kind = HV_F_UNREADABLE;

		if (readable)
			kind = plainly_honest(skb, s, port) ? HV_FORGED_KINDS : forged(skb, s, port);
		if (kind < HV_FORGED_KINDS) {
			KEEP(kind);
			if (kind < HV_FORGED_KINDS)
				counters->forged[kind]++;
			if (enforce)
				return DROP;
		}
	}
	if (direction == HV_IN && !handed && readable && f->icmp_type == 134 && f->protocol == 58 && f->ethertype == ETH_IPV6)
		heed_router(s, port);
	limits = bpf_map_lookup_elem(&hv_limits, &slot);
	s->proof = HV_FREE;
	if (direction == HV_IN && limits && limits->armed && limits->proof_end_ns > now)
		s->proof = asked_of(skb, s, port, readable);
	if (readable && s->proof != HV_PROOF)
		note(skb, slot, direction, s, counters);
	if (limits && limits->armed && limited(s, port, limits)) {
		traffic = f->traffic;
		KEEP(traffic);
		if (traffic < HV_CLASSES)
			counters->by_class[direction][traffic].limited += f->packets;
		if (enforce)
			return DROP;
	}
	stranger = f->stranger;
	verdict = handed ? PASS : cross(skb, s, port, slot, direction, octets, now, readable);
	if (stranger && verdict != DROP)
		admit(slot, f);
	if (direction == HV_IN && of_dhcp(f, HV_IN) && port->flags & HV_LEASED && readable && verdict != DROP)
		heed_answer(skb, port);
	if (s->proof != HV_FREE && verdict != DROP)
		return withhold(skb, s, counters, enforce);
	return verdict;
}

SEC("tc")
int hv_from_vm(struct __sk_buff *skb)
{
	if ((skb->mark & ~1u) == ANSWERED) {
		skb->mark = skb->mark & 1 ? PASSED : 0;
		return PASS;
	}
	return handle(skb, HV_OUT);
}

SEC("tc")
int hv_to_vm(struct __sk_buff *skb)
{
	if (skb->mark == DONE) {
		skb->mark = 0;
		return PASS;
	}
	return handle(skb, HV_IN);
}
