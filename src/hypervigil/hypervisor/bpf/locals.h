/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Whose a link-local IPv6 address is on its segment. The one that follows from a port's MAC is that port's, and what the
 * policy names is whose it says; neither can be claimed. Any other is the port's that uses it first, for guests make them up
 * (RFC 7217), until it holds HV_LOCALS newer ones or goes. Who advertises routes from where no port is, such as a
 * router, goes before any claim.
 */
#ifndef HYPERVIGIL_LOCALS_H
#define HYPERVIGIL_LOCALS_H

#define ROUTER_NS (9000 * SECOND_NS)	/* the longest that an advertisement may hold (RFC 4861) */

struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 16384); __type(key, struct hv_local_key); __type(value, struct hv_holder); } hv_holders SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1024); __type(key, __u32); __type(value, struct hv_locals); } hv_locals SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 1024); __type(key, struct hv_local_key); __type(value, __u64); } hv_routers SEC(".maps");

static __always_inline int link_local(const struct hv_address *a)
{
	return a->bytes[0] == 0xfe && (a->bytes[1] & 0xc0) == 0x80;
}

/* Whether it is the address that follows from a MAC (RFC 4291, appendix A). */
static __always_inline int of_mac(const struct hv_address *a, const __u8 *mac)
{
	const __u8 *b = a->bytes;

	return b[0] == 0xfe && b[1] == 0x80 && !(b[2] | b[3] | b[4] | b[5] | b[6] | b[7]) && b[8] == (mac[0] ^ 2) && b[9] == mac[1] &&
	       b[10] == mac[2] && b[11] == 0xff && b[12] == 0xfe && b[13] == mac[3] && b[14] == mac[4] && b[15] == mac[5];
}

/* Whether the address in s->local is that of somebody behind no port of ours who advertises routes, and did so lately. */
static __always_inline int a_routers(struct scratch *s, const struct hv_port *port)
{
	__u64 *at;

	if (port->flags & HV_MAY_ADVERTISE_ROUTES)
		return 0;
	at = bpf_map_lookup_elem(&hv_routers, &s->local);
	return at && (s->now < *at || s->now - *at < ROUTER_NS);	/* another CPU's clock may be a tick ahead */
}

static __always_inline __u32 holding_tick(const struct scratch *s)
{
	return (__u32)(s->now >> 30) + 1;
}

/* The address in s->local becomes this port's, in place of the one of its own that it did not use for longest. */
static __always_inline int claim(struct scratch *s, __u32 slot)
{
	struct hv_local_key *key = &s->local, *old = &s->former;
	struct hv_holder mine = { .slot = slot, .tick = holding_tick(s) }, *holder;
	struct hv_locals *locals = bpf_map_lookup_elem(&hv_locals, &slot);
	__u32 oldest = 0, age = 0, its;

	if (!locals)
		return 0;
	old->segment = key->segment;
#pragma unroll
	for (__u32 i = 0; i < HV_LOCALS; i++) {
		old->address = locals->address[i];
		holder = bpf_map_lookup_elem(&hv_holders, old);
		its = holder && holder->slot == slot && holder->tick ? mine.tick - holder->tick : 0x7fffffff;
		its = (__s32)its < 0 ? 0 : its;
		if (its > age || !i) {
			age = its;
			oldest = i;
		}
	}
	oldest &= HV_LOCALS - 1;
	if (bpf_map_update_elem(&hv_holders, key, &mine, BPF_NOEXIST))
		return 0;	/* another was first, or there is no room */
	bpf_spin_lock(&locals->lock);
	old->address = locals->address[oldest];
	locals->address[oldest] = key->address;
	bpf_spin_unlock(&locals->lock);
	holder = bpf_map_lookup_elem(&hv_holders, old);
	if (holder && holder->slot == slot && holder->tick) {
		bpf_map_delete_elem(&hv_holders, old);
		__sync_fetch_and_add(&locals->evicted, 1);
	}
	return 1;
}

/* Whether the port may use the link-local address in s->local: it holds it already, or holds it from now. */
static __noinline int owns_local(struct scratch *s, const struct hv_port *port)
{
	struct hv_holder *holder;
	__u32 slot;

	if (!port)
		return 0;
	slot = port->slot;
	if (of_mac(&s->local.address, port->mac) || among(port->address, port->addresses, &s->local.address))
		return 1;
	s->local.segment = port->segment;
	if (a_routers(s, port))
		return 0;
	holder = bpf_map_lookup_elem(&hv_holders, &s->local);
	if (!holder)
		return claim(s, slot);
	if (holder->slot != slot)
		return 0;
	if (holder->tick)
		holder->tick = holding_tick(s);
	return 1;
}

/* Somebody advertises routes: who is behind a port of ours and may not does not come here. */
static __noinline void heed_router(struct scratch *s, const struct hv_port *port)
{
	if (!port || !link_local(&s->frame.source))
		return;
	s->local.segment = port->segment;
	s->local.address = s->frame.source;
	bpf_map_update_elem(&hv_routers, &s->local, &s->now, BPF_ANY);
}

/* Whether a question about an IPv6 address is none of this port's business. Where nobody is known to have it, all are asked. */
static __noinline int asks_another(struct __sk_buff *skb, struct scratch *s, const struct hv_port *port)
{
	struct hv_address *target = &s->local.address;
	struct hv_holder *holder;

	if (!port || bpf_skb_load_bytes(skb, s->frame.l4 + 8, target, sizeof(*target)))
		return 1;
	if (port->pairs || among(port->address, port->addresses, target))
		return 0;
	if (!link_local(target))
		return !bound(s, port, target);
	if (of_mac(target, port->mac))
		return 0;
	s->local.segment = port->segment;
	if (a_routers(s, port))
		return 1;
	holder = bpf_map_lookup_elem(&hv_holders, &s->local);
	return holder && holder->slot != port->slot;
}
#endif
