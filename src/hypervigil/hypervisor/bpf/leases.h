/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Addresses that a trusted DHCP server gave a port, for as long as it said. They count from the very frame that tells the
 * guest, for it announces its address at once. What one port holds no other on its segment is taught, until it ends; what
 * the policy gives never. Of DHCP only what clients and servers agree on is read: who asks, what is given, for how long.
 */
#ifndef HYPERVIGIL_LEASES_H
#define HYPERVIGIL_LEASES_H

#define OPTIONS 64		/* of one message that are looked at; with more it is not understood */
#define BOOTP_OPTIONS 240	/* where they begin, behind the cookie */
#define DHCP_DECLINE 4
#define DHCP_ACK 5
#define DHCP_RELEASE 7

struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1024); __type(key, __u32); __type(value, struct hv_leases); } hv_leases SEC(".maps");

/*
 * This CPU's scratch, once more: kernels before 6.6 take no key of a map from where a function's own argument points. What
 * is not static is verified by itself, and knows of its arguments no more than that they may be read and written.
 */
static __always_inline struct scratch *own_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&hv_scratch, &zero);
}

/* Whether another port's lease of the address in s->local runs still. */
static __always_inline int runs_elsewhere(struct scratch *s, __u32 slot)
{
	struct hv_leases *leases = bpf_map_lookup_elem(&hv_leases, &slot);
	int held = 0;

	if (!leases)
		return 0;
	for (int i = 0; i < HV_LEASES; i++)
		held |= leases->lease[i].end_ns > s->now && same_address(&leases->lease[i].address, &s->local.address);
	return held;
}

/* Whether a lease of the port gives it this address now, and the address is still its own. */
__noinline int leased(const struct hv_port *port, const struct hv_address *address)
{
	struct scratch *s = own_scratch();
	struct hv_leases *leases;
	struct hv_holder *holder;
	__u32 slot, held = 0, any = 0;

	if (!s || !port || !address)
		return 0;
	slot = port->slot;
	leases = bpf_map_lookup_elem(&hv_leases, &slot);
	if (!leases)
		return 0;
	for (int i = 0; i < HV_LEASES; i++) {
		if (leases->lease[i].end_ns <= s->now)
			continue;
		any = 1;
		held |= same_address(&leases->lease[i].address, address);
	}
	if (!held && (any || port->addresses || !(port->flags & HV_FREE_UNTIL_LEASED)))
		return 0;
	s->local.segment = port->segment;
	s->local.address = *address;
	holder = bpf_map_lookup_elem(&hv_holders, &s->local);
	if (!holder)
		return !held;
	return holder->slot == slot || (!held && holder->tick && !runs_elsewhere(s, holder->slot));
}

/* The lease is over: its address is free again, unless it is somebody else's by now. */
static __always_inline void end_lease(struct scratch *s, struct hv_lease *lease, __u32 segment, __u32 slot)
{
	struct hv_holder *holder;

	s->former.segment = segment;
	s->former.address = lease->address;
	lease->end_ns = 0;
	holder = bpf_map_lookup_elem(&hv_holders, &s->former);
	if (holder && holder->slot == slot && holder->tick)
		bpf_map_delete_elem(&hv_holders, &s->former);
}

/* The address in s->local is the port's for so long, in place of the lease that it got or renewed longest ago. */
static __always_inline void learn(struct scratch *s, struct hv_leases *leases, __u32 slot, __u32 lease_s)
{
	struct hv_holder mine = { .slot = slot, .tick = holding_tick(s) }, *holder;
	__u64 at, least = ~0ULL;
	__u32 way = 0, own;

	holder = bpf_map_lookup_elem(&hv_holders, &s->local);
	if (holder && !holder->tick && holder->slot == slot)
		return;		/* its own by the policy's word */
	if (holder && holder->slot != slot && (!holder->tick || runs_elsewhere(s, holder->slot))) {
		__sync_fetch_and_add(&leases->refused, 1);
		return;
	}
#pragma unroll
	for (__u32 i = 0; i < HV_LEASES; i++) {
		own = leases->lease[i].end_ns && same_address(&leases->lease[i].address, &s->local.address);
		at = own ? 0 : leases->lease[i].end_ns > s->now ? leases->lease[i].at_ns + 2 : 1;
		if (at < least) {
			least = at;
			way = i;
		}
	}
	way &= HV_LEASES - 1;
	if (least) {
		if (least > 1)
			__sync_fetch_and_add(&leases->evicted, 1);
		end_lease(s, &leases->lease[way], s->local.segment, slot);
	}
	if (bpf_map_update_elem(&hv_holders, &s->local, &mine, BPF_ANY)) {
		__sync_fetch_and_add(&leases->refused, 1);
		return;		/* no room */
	}
	leases->lease[way].address = s->local.address;
	leases->lease[way].at_ns = s->now;
	leases->lease[way].end_ns = s->now + lease_s * SECOND_NS;
}

/* Read what a message says in its options. Returns 0 when it says nothing, or may say another thing to its receiver. */
static __always_inline int read_options(struct __sk_buff *skb, struct scratch *s)
{
	struct dhcp *d = &s->dhcp;
	__u8 *b = s->raw.bytes;
	__u32 l4 = s->frame.l4, at, bit, length;

	__builtin_memset(d, 0, sizeof(*d));
	if (bpf_skb_load_bytes(skb, ETH_HLEN + 2, b, 2) || bpf_skb_load_bytes(skb, l4 + 4, b + 2, 2))
		return 0;
	length = b[2] << 8 | b[3];
	d->end = l4 + length;
	if (length < 8 + BOOTP_OPTIONS || d->end > ETH_HLEN + (b[0] << 8 | b[1]) || d->end > skb->len)
		return 0;
	if (bpf_skb_load_bytes(skb, l4 + 8 + BOOTP_OPTIONS - 4, b, 4) || b[0] != 99 || b[1] != 130 || b[2] != 83 || b[3] != 99)
		return 0;
	d->at = l4 + 8 + BOOTP_OPTIONS;
	for (int i = 0; i < OPTIONS; i++) {
		asm volatile("" ::: "memory");	/* what is read back from memory the verifier knows nothing of: each turn is like the last */
		at = d->at;
		if (at >= d->end || bpf_skb_load_bytes(skb, at, b, 1))
			return 0;
		if (b[0] == 255)
			return d->message != 0;
		if (!b[0]) {
			d->at = at + 1;
			continue;
		}
		if (bpf_skb_load_bytes(skb, at, b, 2))
			return 0;
		d->at = at + 2 + b[1];
		if (d->at > d->end)
			return 0;
		bit = b[0] == 53 ? 1 : b[0] == 51 ? 2 : b[0] == 50 ? 4 : 0;
		if (!bit)
			continue;
		if (d->seen & bit || b[1] != (bit == 1 ? 1 : 4) || bpf_skb_load_bytes(skb, at + 2, b, bit == 1 ? 1 : 4))
			return 0;	/* said twice, or in pieces (RFC 3396) */
		d->seen |= bit;
		if (bit == 1)
			d->message = b[0];
		else if (bit == 2)
			d->lease_s = (__u32)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
		else
			__builtin_memcpy(d->requested, b, 4);
	}
	return 0;
}

/* Read a message of DHCP about this port's own MAC: ``op`` 1 from a client, 2 from a server. Returns 0 when it is none. */
__noinline int read_dhcp(struct __sk_buff *skb, struct scratch *s, const struct hv_port *port, __u32 op)
{
	const __u8 *b;

	if (!s || !port || s->frame.fragment || !s->frame.l4 || skb->gso_size ||
	    bpf_skb_load_bytes(skb, s->frame.l4 + 8, s->raw.bytes, 34))
		return 0;
	b = s->raw.bytes;
	if (b[0] != op || b[1] != 1 || b[2] != 6 || !same_mac(b + 28, port->mac))
		return 0;
	__builtin_memcpy(s->own, b + 12, 4);
	__builtin_memcpy(s->yours, b + 16, 4);
	return read_options(skb, s);
}

/* A client's or a server's message to the other, perhaps. One comparison: each would double what the verifier looks at. */
static __always_inline int of_dhcp(const struct frame *f, __u32 direction)
{
	__u32 odd = (f->protocol ^ 17) | (f->ethertype ^ ETH_IPV4);

	odd |= direction == HV_OUT ? f->destination_port ^ 67 : (f->source_port ^ 67) | (f->destination_port ^ 68);
	KEEP(odd);
	return !odd;
}

/* Whether the network may give the address: it is in its range, and one host's. */
static __always_inline int to_be_leased(const struct hv_port *port, const __u8 *a)
{
	if (!a[0] || a[0] == 127 || a[0] >= 224)
		return 0;
	return !(((a[0] ^ port->within[0]) & port->mask[0]) | ((a[1] ^ port->within[1]) & port->mask[1]) |
		 ((a[2] ^ port->within[2]) & port->mask[2]) | ((a[3] ^ port->within[3]) & port->mask[3]));
}

static __always_inline int trusted(const struct hv_port *port, const __u8 *mac)
{
#pragma unroll
	for (int i = 0; i < HV_SERVERS; i++)
		if (i < port->servers && same_mac(port->server[i], mac))
			return 1;
	return 0;
}

/* An answer that passed: a trusted server gives the port an address. */
__noinline int heed_answer(struct __sk_buff *skb, const struct hv_port *port)
{
	struct scratch *s = own_scratch();
	struct hv_leases *leases;
	__u32 slot;

	if (!s || !port || skb->vlan_present || !trusted(port, s->frame.source_mac))
		return 0;
	slot = port->slot;
	leases = bpf_map_lookup_elem(&hv_leases, &slot);
	if (!leases || !read_dhcp(skb, s, port, 2) || s->dhcp.message != DHCP_ACK || !s->dhcp.lease_s)
		return 0;
	if (!to_be_leased(port, s->yours)) {
		__sync_fetch_and_add(&leases->refused, 1);
		return 0;
	}
	s->local.segment = port->segment;
	from_ipv4(&s->local.address, s->yours);
	learn(s, leases, slot, s->dhcp.lease_s);
	return 0;
}

/* Whether a request is understood, and in the port's own name. An address that it gives back is its own no more. */
__noinline int heed_request(struct __sk_buff *skb, const struct hv_port *port)
{
	struct scratch *s = own_scratch();
	struct hv_leases *leases;
	__u32 slot;

	if (!s || !port || !read_dhcp(skb, s, port, 1))
		return 0;
	slot = port->slot;
	leases = bpf_map_lookup_elem(&hv_leases, &slot);
	if (!leases || (s->dhcp.message != DHCP_RELEASE && s->dhcp.message != DHCP_DECLINE))
		return 1;
	from_ipv4(&s->local.address, s->dhcp.message == DHCP_RELEASE ? s->own : s->dhcp.requested);
	for (int i = 0; i < HV_LEASES; i++)
		if (leases->lease[i].end_ns && same_address(&leases->lease[i].address, &s->local.address))
			end_lease(s, &leases->lease[i], port->segment, slot);
	return 1;
}
#endif
