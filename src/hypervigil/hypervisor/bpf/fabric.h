/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who may reach whom: a frame passes when its sender's perimeter was granted its service at the receiver's, or when it
 * answers such a frame. network/decide.py is the specification. Every look-up is by number or hash: the cost grows neither
 * with VMs nor with rules. A port whose perimeter is 0 is not mediated, and nothing here touches its frames.
 */
#ifndef HYPERVIGIL_FABRIC_H
#define HYPERVIGIL_FABRIC_H

#define REDIRECT 7		/* TCX_REDIRECT */
#define DECIDED 0x48560000u	/* skb->mark from our redirection to our program at the other end, and nowhere else */
#define TICKET 0xffffu
#define DONE 0x48570000u	/* likewise, of a frame that was counted for the receiver as well */
/*
 * What the host's firewall is told of a frame (adapters/nftables/routed.py), which takes it off again: that it was decided
 * here; with ELSEWHERE, also that it is for nobody on the host itself.
 */
#define PASSED 0x48580000u
#define ELSEWHERE 1u
#define NEIGHBOUR (256u << 16)	/* model/services.py: the service of ARP and of neighbour and listener discovery */
#define TICK_SHIFT 30		/* ns to ticks of 1.07 s */
#define TCP_TICKS 3352		/* an hour of silence */
#define OTHER_TICKS 168		/* three minutes */

struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, struct hv_epoch); } hv_epoch SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1024); __type(key, __u32); __type(value, struct hv_place); } hv_places SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 2048); __type(key, struct hv_member_key); __type(value, struct hv_member); } hv_members SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8192); __type(key, struct hv_address); __type(value, __u32); } hv_homes SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LPM_TRIE); __uint(max_entries, 65536); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, struct hv_range_key); __type(value, __u32); } hv_ranges SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 131072); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, struct hv_grant_key); __type(value, __u32); } hv_grants SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 4096); __type(key, __u32); __type(value, struct hv_services); } hv_services SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1024 * HV_FLOW_SETS); __type(key, __u32); __type(value, struct hv_flow_set); } hv_flows SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1024); __type(key, __u32); __type(value, struct hv_allowance); } hv_allowances SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 1024); __type(key, __u32); __type(value, struct hv_crossings); } hv_crossings SEC(".maps");

/* The end of a frame that is not at this port. */
struct other {
	struct hv_place *place;	/* 0: not a port */
	__u32 slot;
	__u32 ifindex;		/* on the same bridge; else 0 */
	__u32 perimeter;
	__u32 gateway;		/* whether it is a gateway */
};

static __always_inline __u32 service_of(const struct frame *f)
{
	if (f->ethertype == ETH_ARP || f->ethertype == ETH_RARP)
		return NEIGHBOUR;
	if (f->protocol == 58 && f->l4 && ((f->icmp_type >= 130 && f->icmp_type <= 137) || f->icmp_type == 143))
		return NEIGHBOUR;
	if (f->protocol == 1 || f->protocol == 58)
		return f->protocol << 16 | f->icmp_type;
	return f->protocol << 16 | f->destination_port;
}

/* What an answer to this frame is, as if it were begun. */
static __always_inline __u32 answer_to(const struct frame *f)
{
	return f->protocol << 16 | (f->protocol == 1 ? 0 : f->protocol == 58 ? 129 : f->source_port);
}

static __always_inline __u32 granted(__u32 bank, __u32 source, __u32 destination)
{
	struct hv_grant_key key = { .source = source | bank << 31, .destination = destination };
	__u32 *grant = bpf_map_lookup_elem(&hv_grants, &key);

	return grant ? *grant : 0;
}

/* Whether a grant holds a service: ranges lie in order, and the last that begins at or below it decides. */
static __always_inline int holds(__u32 grant, __u32 service)
{
	__u32 id = grant & HV_SERVICES_MASK, at = 0;
	struct hv_services *set;

	if (id == HV_ANYTHING)
		return 1;
	set = id ? bpf_map_lookup_elem(&hv_services, &id) : 0;
	if (!set)
		return 0;
#pragma unroll
	for (__u32 step = HV_RANGES / 2; step; step /= 2)
		if (set->range[(at + step) & (HV_RANGES - 1)].first <= service)
			at += step;
	at &= HV_RANGES - 1;
	return set->range[at].first <= service && service <= set->range[at].last;
}

static __always_inline __u32 perimeter_of(const struct hv_place *place, __u32 bank)
{
	__u32 perimeter = place->perimeter[bank & 1];

	return perimeter ? perimeter : HV_STRANGER;
}

/*
 * Who is at the other end. A member of the same segment is known by its MAC, which the program at its own port has
 * checked; it must have come from there. Everybody else is known by address. Returns 0 when nobody honest can be it.
 */
static __always_inline int find_other(struct __sk_buff *skb, struct scratch *s, const struct hv_place *here, __u32 direction, __u32 bank, struct other *o)
{
	struct frame *f = &s->frame;
	const struct hv_address *address = direction == HV_OUT ? &f->destination : &f->source;
	struct hv_member_key key = { .network = here->network };
	struct hv_range_key *range = &s->range;
	struct hv_member *member;
	__u32 *found;

	__builtin_memcpy(key.mac, direction == HV_OUT ? f->destination_mac : f->source_mac, 6);
	member = bpf_map_lookup_elem(&hv_members, &key);
	if (member) {
		/* No device: several have that MAC by turns, and the bridge knows where it is. */
		if (direction == HV_IN && member->ifindex && member->ifindex != skb->ingress_ifindex)
			return 0;
		o->slot = member->slot;
		o->ifindex = member->ifindex;
		o->place = bpf_map_lookup_elem(&hv_places, &o->slot);
		if (!o->place)
			return 0;
		o->perimeter = perimeter_of(o->place, bank);
		return 1;
	}
	if (f->ethertype == ETH_IPV6 && link_local(address)) {
		o->perimeter = here->gateway[bank & 1];
		o->gateway = 1;
		return 1;
	}
	if (f->ethertype != ETH_IPV4 && f->ethertype != ETH_IPV6 && f->ethertype != ETH_ARP) {
		o->perimeter = HV_OUTSIDE;	/* it has no address, and its MAC might look like one */
		return 1;
	}
	found = bpf_map_lookup_elem(&hv_homes, address);
	if (found) {
		o->slot = *found;
		o->place = bpf_map_lookup_elem(&hv_places, &o->slot);
		/* A member of the same segment speaks for itself; in a routed network the host speaks for all. */
		if (!o->place || (o->place->network == here->network && !(here->flags & HV_ROUTED)))
			return 0;
		o->perimeter = perimeter_of(o->place, bank);
		return 1;
	}
	range->prefix = HV_RANGE_BITS;
	range->bank = bank;
	range->address = *address;
	found = bpf_map_lookup_elem(&hv_ranges, range);
	o->perimeter = found ? *found & ~HV_IS_GATEWAY : HV_OUTSIDE;
	o->gateway = found && *found & HV_IS_GATEWAY;
	return 1;
}

/* --- conversations ------------------------------------------------------------------------------------------------ */
static __always_inline __u32 tag_of(const struct hv_flow_key *key, __u64 seed)
{
	const __u64 *words = (const __u64 *)key;
	__u64 h = seed;

#pragma unroll
	for (int i = 0; i < sizeof(*key) / 8; i++) {
		h = (h ^ words[i]) * 0x9e3779b97f4a7c15ULL;
		h ^= h >> 29;
	}
	return (__u32)(h >> 32) | 1;
}

static __always_inline int same_flow(const struct hv_flow_key *a, const struct hv_flow_key *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]));
}

static __always_inline struct hv_flow_set *flow_set(const struct hv_place *owner, __u32 tag)
{
	__u32 index = owner->table * HV_FLOW_SETS + (tag >> 8) % HV_FLOW_SETS;

	return bpf_map_lookup_elem(&hv_flows, &index);
}

static __always_inline int stale(const struct hv_flow *way, __u32 tick)
{
	__u32 age = tick - way->tick;

	return age > (way->key.protocol == 6 ? TCP_TICKS : OTHER_TICKS) && age < 1u << 31;
}

/* Whether a conversation is remembered. A way that is being rewritten has tag 0 meanwhile, so it never half matches. */
static __always_inline int recall(struct hv_flow_set *set, const struct hv_flow_key *key, __u32 tag, __u32 tick)
{
#pragma unroll
	for (int i = 0; i < HV_FLOW_WAYS; i++) {
		struct hv_flow *way = &set->way[i];

		if (*(volatile __u32 *)&way->tag != tag || !same_flow(&way->key, key) || *(volatile __u32 *)&way->tag != tag)
			continue;
		if (stale(way, tick))
			return 0;
		if (way->tick != tick)
			way->tick = tick;
		return 1;
	}
	return 0;
}

/* Remember a conversation in place of the one that was silent for longest; whether a live one had to go. */
static __always_inline int enter(struct hv_flow_set *set, const struct hv_flow_key *key, __u32 tag, __u32 tick, __u32 ways)
{
	__u32 oldest = 0, age = 0;
	int evicted;

	bpf_spin_lock(&set->lock);
#pragma unroll
	for (__u32 i = 0; i < HV_FLOW_WAYS; i++) {
		struct hv_flow *way = &set->way[i];
		__u32 its = way->tag ? tick - way->tick : 0x7fffffff;

		if (i < ways && its < 1u << 31 && its >= age) {
			age = its;
			oldest = i;
		}
	}
	oldest &= HV_FLOW_WAYS - 1;
	evicted = set->way[oldest].tag && !stale(&set->way[oldest], tick);
	__sync_lock_test_and_set(&set->way[oldest].tag, 0);	/* an exchange, which nothing is moved across */
	set->way[oldest].key = *key;
	set->way[oldest].tick = tick;
	__sync_lock_test_and_set(&set->way[oldest].tag, tag);
	bpf_spin_unlock(&set->lock);
	return evicted;
}

/* The conversation of a frame, seen from who began it: its sender, or with ``back`` its receiver. */
static __always_inline int flow_key(struct __sk_buff *skb, struct scratch *s, int back, __u16 generation)
{
	struct frame *f = &s->frame;
	struct hv_flow_key *key = &s->flow;
	__u16 one = f->source_port, other = f->destination_port;

	__builtin_memset(key, 0, sizeof(*key));
	if (f->protocol == 1 || f->protocol == 58) {
		__u8 begins = f->protocol == 1 ? 8 : 128, answers = f->protocol == 1 ? 0 : 129;

		if (f->icmp_type != (back ? answers : begins))
			return 0;	/* nothing else of ICMP has answers that belong to it */
		if (bpf_skb_load_bytes(skb, f->l4 + 4, &key->begun_port, 2))
			return 0;
		one = other = 0;
	} else if (back) {
		key->begun_port = other;
		key->asked_port = one;
	} else {
		key->begun_port = one;
		key->asked_port = other;
	}
	key->begun = back ? f->destination : f->source;
	key->asked = back ? f->source : f->destination;
	key->protocol = f->protocol;
	key->generation = generation;
	return 1;
}

static __always_inline void fragment_key(struct scratch *s, __u16 generation)
{
	struct frame *f = &s->frame;
	struct hv_flow_key *key = &s->flow;

	__builtin_memset(key, 0, sizeof(*key));
	key->begun = f->source;
	key->asked = f->destination;
	key->begun_port = f->fragment_id >> 16;
	key->asked_port = f->fragment_id;
	key->kind = HV_FRAGMENT_KEY;
	key->generation = generation;
}

/* --- budgets: a VM's, so that its ports draw on one allowance, each frame under its lock ---------------------------- */
static __always_inline int beyond_budget(const struct hv_place *here, const struct frame *f, __u32 octets, __u64 now)
{
	__u32 account = here->account;
	struct hv_allowance *a = bpf_map_lookup_elem(&hv_allowances, &account);
	int beyond;

	if (!a || (!a->rate.packets_per_s_x1000 && !a->rate.octets_per_s))
		return 0;
	bpf_spin_lock(&a->lock);
	refill(&a->bucket, &a->rate, now);
	beyond = !covers(&a->bucket, &a->rate);
	if (!beyond)
		spend(&a->bucket, &a->rate, f->packets, octets);
	bpf_spin_unlock(&a->lock);
	return beyond;
}

/* Frames to groups, which everybody has to look at: a second's worth may come at once, as when a guest starts. */
static __always_inline int beyond_broadcasts(const struct hv_place *here, const struct frame *f, __u64 now)
{
	__u32 account = here->account;
	struct hv_allowance *a = bpf_map_lookup_elem(&hv_allowances, &account);
	struct hv_bucket *b;
	__u64 rate, elapsed;
	int beyond;

	if (!a || !a->broadcasts.packets_per_s_x1000)
		return 0;
	b = &a->broadcast_bucket;
	bpf_spin_lock(&a->lock);
	rate = a->broadcasts.packets_per_s_x1000;
	elapsed = now > b->last_ns ? now - b->last_ns : 0;
	if (elapsed > SECOND_NS)
		elapsed = SECOND_NS;
	if (elapsed)
		b->last_ns = now;
	b->packets += rate * elapsed / 1000000;
	if (rate < 1000)
		rate = 1000;
	if (b->packets > (__s64)(rate * 1000))
		b->packets = rate * 1000;
	beyond = b->packets < 1000000;
	if (!beyond)
		b->packets -= (__s64)f->packets * 1000000;
	bpf_spin_unlock(&a->lock);
	return beyond;
}

static __always_inline int may_remember(const struct hv_place *owner, __u64 now, __u32 *ways)
{
	__u32 account = owner->account;
	struct hv_allowance *a = bpf_map_lookup_elem(&hv_allowances, &account);
	int may;

	*ways = HV_FLOW_WAYS;
	if (!a)
		return 1;
	if (a->ways)
		*ways = a->ways;
	if (!a->flows.packets_per_s_x1000)
		return 1;
	bpf_spin_lock(&a->lock);
	refill(&a->flow_bucket, &a->flows, now);
	may = covers(&a->flow_bucket, &a->flows);
	if (may)
		spend(&a->flow_bucket, &a->flows, 1, 0);
	bpf_spin_unlock(&a->lock);
	return may;
}

/* Make sure that the conversation in s->flow is remembered by ``owner``; 0 when its budget has no room for a new one. */
static __always_inline int remembered(struct scratch *s, const struct hv_epoch *epoch, const struct hv_place *owner, __u64 now, struct hv_crossings *crossings)
{
	__u32 tag = tag_of(&s->flow, epoch->seed), tick = now >> TICK_SHIFT, ways;
	struct hv_flow_set *set = flow_set(owner, tag);

	if (!set)
		return 0;
	if (recall(set, &s->flow, tag, tick))
		return 1;
	if (!may_remember(owner, now, &ways))
		return 0;
	crossings->flows++;
	crossings->evicted += enter(set, &s->flow, tag, tick, ways);
	return 1;
}

static __always_inline int known(struct scratch *s, const struct hv_epoch *epoch, const struct hv_place *owner, __u64 now)
{
	__u32 tag = tag_of(&s->flow, epoch->seed);
	struct hv_flow_set *set = flow_set(owner, tag);

	return set && recall(set, &s->flow, tag, now >> TICK_SHIFT);
}

/* --- the decision ------------------------------------------------------------------------------------------------- */
#define DENY(why) (-1 - (int)(why))

/*
 * Of a frame that this port sends or is to receive: below 0 it is denied (see DENY), above 0 it may go straight to that
 * device, 0 it passes.
 */
static __noinline int mediate(struct __sk_buff *skb, struct scratch *s, struct hv_place *here, struct hv_epoch *epoch, struct hv_crossings *crossings)
{
	struct frame *f = &s->frame;
	__u32 direction = s->direction;
	__u64 now = s->now;
	struct other o = {};
	__u32 service = service_of(f), bank = s->word & 1, source, destination, forward, backward;
	struct hv_place *owner;
	struct hv_last *last;
	int later;

	if (!here || !epoch || !crossings)
		return DENY(HV_D_PATH);
	later = f->fragment && !f->l4;
	if (direction == HV_OUT && f->multicast) {
		forward = granted(bank, perimeter_of(here, bank), HV_EVERYBODY);
		return (later ? (forward & HV_SERVICES_MASK) == HV_ANYTHING : holds(forward, service)) ? 0 : DENY(HV_D_PATH);
	}
	last = &crossings->last;
	if (direction == HV_OUT && last->word == s->word && same_mac(last->mac, f->destination_mac)) {
		o.slot = last->slot;
		o.ifindex = last->ifindex;
		source = perimeter_of(here, bank);
		destination = o.perimeter = last->perimeter;
		forward = last->grant;
	} else {
		if (!find_other(skb, s, here, direction, bank, &o))
			return DENY(HV_D_STRANGER);
		source = direction == HV_OUT ? perimeter_of(here, bank) : o.perimeter;
		destination = direction == HV_OUT ? o.perimeter : perimeter_of(here, bank);
		forward = granted(bank, source, destination);
		if (direction == HV_OUT && o.ifindex) {
			last->word = s->word;
			last->grant = forward;
			last->perimeter = o.perimeter;
			last->slot = o.slot;
			last->ifindex = o.ifindex;
			__builtin_memcpy(last->mac, f->destination_mac, 6);
		}
	}
	s->to = o.slot;
	s->elsewhere = !o.gateway;
	if (later) {
		/* Its first fragment was decided, and remembered where that was. */
		if ((forward & HV_SERVICES_MASK) == HV_ANYTHING)
			return o.ifindex;
		fragment_key(s, here->generation);
		return known(s, epoch, here, now) ? (int)o.ifindex : DENY(HV_D_PATH);
	}
	if (holds(forward, service)) {
		if ((forward & HV_ONE_WAY) && service != NEIGHBOUR && !f->multicast && !s->proof &&
		    !(forward & HV_BACK && holds(granted(bank, destination, source), answer_to(f)))) {
			owner = direction == HV_IN && o.place ? o.place : here;
			if (flow_key(skb, s, 0, owner->generation) && !remembered(s, epoch, owner, now, crossings))
				return DENY(HV_D_BUDGET);
		}
	} else {
		/* An answer: its receiver began, and may still begin, that very conversation. ARP answers none. */
		if (direction == HV_OUT && o.ifindex && !o.place)
			o.place = bpf_map_lookup_elem(&hv_places, &o.slot);
		owner = direction == HV_OUT && o.place ? o.place : here;
		if (f->multicast || service == NEIGHBOUR || !flow_key(skb, s, 1, owner->generation))
			return DENY(HV_D_PATH);
		backward = granted(bank, destination, source);
		service = f->protocol << 16 | (f->protocol == 1 ? 8 : f->protocol == 58 ? 128 : f->source_port);
		if (!holds(backward, service) || !known(s, epoch, owner, now))
			return DENY(HV_D_PATH);
	}
	if (f->fragment) {
		fragment_key(s, here->generation);
		if (!remembered(s, epoch, here, now, crossings))
			return DENY(HV_D_BUDGET);
	}
	return o.ifindex;
}

static __always_inline int paired_mac(const struct hv_port *port, const __u8 *mac)
{
#pragma unroll
	for (int i = 0; i < HV_PAIRS; i++)
		if (i < port->pairs && same_mac(port->pair[i].mac, mac))
			return 1;
	return 0;
}

/* Whether a frame on its way to a port is none of its business: flooded by the bridge, or a question to somebody else. */
static __always_inline int not_for(struct __sk_buff *skb, struct scratch *s, const struct hv_port *port)
{
	const struct frame *f = &s->frame;

	if (f->ethertype == ETH_RARP)
		return CHECKED(HV_F_MAC);	/* it tells switches where a VM is */
	if (!f->multicast)
		return !same_mac(f->destination_mac, port->mac) && !paired_mac(port, f->destination_mac) && CHECKED(HV_F_MAC);
	if (f->ethertype == ETH_IPV6 && f->protocol == 58 && f->icmp_type == 135 && f->l4)
		return asks_another(skb, s, port);
	if (f->ethertype == ETH_IPV6 && f->protocol == 58 && f->icmp_type == 133 && f->l4)
		return !(port->flags & HV_MAY_ADVERTISE_ROUTES);	/* a question to routers */
	return f->ethertype == ETH_ARP && !same_address(&f->source, &f->destination) && !bound(s, port, &f->destination) && !port->pairs;
}

enum handed { HV_NOT_HANDED, HV_HANDED, HV_HANDED_WHOLE };

/*
 * Whether our program at the sender's port decided this frame and handed it over. It ran on this CPU just now; where nothing
 * came between, as the ticket shows, what it read of the frame is still there.
 */
static __always_inline int handed_over(struct __sk_buff *skb, struct scratch *s)
{
	__u32 mark = skb->mark;

	if ((mark & ~TICKET) != DECIDED)
		return HV_NOT_HANDED;
	skb->mark = 0;
	return (mark & TICKET) == (s->ticket & TICKET) ? HV_HANDED_WHOLE : HV_HANDED;
}

/* A frame that goes on from its sender's port by way of the bridge or the host. */
static __always_inline int pass_on(struct __sk_buff *skb, const struct hv_place *here, __u32 direction, int elsewhere)
{
	if (direction == HV_OUT && (elsewhere || here->flags & HV_ROUTED))
		skb->mark = elsewhere ? PASSED | ELSEWHERE : PASSED;
	return PASS;
}

/* What becomes of a frame that everything else lets pass. */
static __always_inline int cross(struct __sk_buff *skb, struct scratch *s, const struct hv_port *port, __u32 slot, __u32 direction, __u32 octets, __u64 now, int readable)
{
	struct hv_place *here = bpf_map_lookup_elem(&hv_places, &slot);
	struct hv_crossings *crossings;
	struct frame *f = &s->frame;
	struct hv_epoch *epoch;
	struct hv_last *last;
	__u32 zero = 0, why;
	int way;

	epoch = bpf_map_lookup_elem(&hv_epoch, &zero);
	if (!here || !epoch)
		return PASS;
	s->word = *(volatile __u64 *)&epoch->word;	/* read once: a frame is decided by one bank as a whole */
	if (!here->perimeter[s->word & 1] && !(here->flags & HV_BUDGET) && !(f->multicast && here->flags & HV_BROADCASTS))
		return pass_on(skb, here, direction, 0);
	crossings = bpf_map_lookup_elem(&hv_crossings, &slot);
	if (!crossings)
		return PASS;
	last = &crossings->last;
	s->elsewhere = 1;
	if (direction == HV_OUT && here->flags & HV_BUDGET && beyond_budget(here, f, octets, now))
		way = DENY(HV_D_BUDGET);
	else if (direction == HV_OUT && f->multicast && here->flags & HV_BROADCASTS && beyond_broadcasts(here, f, now))
		way = DENY(HV_D_BROADCAST);
	else if (!here->perimeter[s->word & 1])
		return pass_on(skb, here, direction, 0);
	else if (!readable)
		way = DENY(HV_D_STRANGER);
	else if (direction == HV_IN && not_for(skb, s, port))
		way = DENY(HV_D_FLOODED);
	else if (direction == HV_OUT && last->word == s->word && last->grant == HV_ANYTHING && !f->fragment &&
		 same_mac(last->mac, f->destination_mac))
		s->to = last->slot, way = last->ifindex;	/* whom it sent to last, and may send everything, both ways */
	else
		way = mediate(skb, s, here, epoch, crossings);
	if (way < 0) {
		why = -1 - way;
		KEEP(why);
		if (why < HV_DENIALS)
			crossings->denied[direction][why] += f->packets;
		return port->mode == HV_ENFORCE ? DROP : pass_on(skb, here, direction, 0);
	}
	if (direction == HV_OUT && way > 0 && port->mode == HV_ENFORCE && !(here->flags & HV_ROUTED)) {
		/* What a server of DHCP gives its receiver, the program at the receiver's port has to see. */
		skb->mark = !of_dhcp(f, HV_IN) && receive(skb, s) ? DONE : DECIDED | (++s->ticket & TICKET);
		crossings->straight += f->packets;
		return bpf_redirect(way, 0);
	}
	return pass_on(skb, here, direction, s->elsewhere && port->mode == HV_ENFORCE);
}
#endif
