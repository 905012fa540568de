/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Proof of source: while a port is under proof, a SYN from an address that has not shown that it is where it says is not
 * delivered. It is turned into a SYN-ACK whose acknowledgement number is a keyed cookie and never acceptable, and goes back
 * the way it came. Who really began answers RST with that number (RFC 9293, 3.10.7.3) and sends its SYN again by itself. Of
 * those who do not answer nothing is kept, so that no number of them fills anything.
 */
#ifndef HYPERVIGIL_PROOF_H
#define HYPERVIGIL_PROOF_H

/* skb->mark from our answer to our program at the same tap, and nowhere else; its last bit: the host routes what the tap sends */
#define ANSWERED 0x48590000u
#define PROOF_SHIFT 33		/* ns to periods of 8.6 s; the cookies of this one and the last are good */
#define PROVEN_NS (300 * SECOND_NS)
#define HALF 0x80000000u	/* not part of a cookie: turned over where the number would be acceptable */
#define IPV4_END (ETH_HLEN + 20)
#define IPV6_END (ETH_HLEN + 40)

struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 65536); __type(key, struct hv_source_key); __type(value, struct hv_proven); } hv_proven SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, struct hv_secret); } hv_secret SEC(".maps");

/* What proof asks of a frame: nothing; an answer; not to be delivered; and not to be delivered since it is the proof. */
enum proof { HV_FREE, HV_ASK, HV_HOLD, HV_PROOF };

#define ROTATE(x, b) ((x) << (b) | (x) >> (64 - (b)))

struct sip { __u64 a, b, c, d; };

static __always_inline void sip_round(struct sip *v)
{
	v->a += v->b; v->b = ROTATE(v->b, 13); v->b ^= v->a; v->a = ROTATE(v->a, 32);
	v->c += v->d; v->d = ROTATE(v->d, 16); v->d ^= v->c;
	v->a += v->d; v->d = ROTATE(v->d, 21); v->d ^= v->a;
	v->c += v->b; v->b = ROTATE(v->b, 17); v->b ^= v->c; v->c = ROTATE(v->c, 32);
}

static __always_inline void sip_word(struct sip *v, __u64 word)
{
	v->d ^= word;
	sip_round(v);
	sip_round(v);
	v->a ^= word;
}

/* SipHash-2-4 of both addresses, both ports, the port's slot and the period: the same for a client's SYN and its RST. */
static __noinline __u32 cookie_of(struct scratch *s, __u32 period)
{
	struct frame *f = &s->frame;
	const __u64 *source = (const __u64 *)&f->source, *destination = (const __u64 *)&f->destination;
	struct hv_secret *secret;
	struct sip v;
	__u32 zero = 0;

	secret = bpf_map_lookup_elem(&hv_secret, &zero);
	if (!secret)
		return 0;
	v.a = secret->key[0] ^ 0x736f6d6570736575ULL;
	v.b = secret->key[1] ^ 0x646f72616e646f6dULL;
	v.c = secret->key[0] ^ 0x6c7967656e657261ULL;
	v.d = secret->key[1] ^ 0x7465646279746573ULL;
	sip_word(&v, source[0]);
	sip_word(&v, source[1]);
	sip_word(&v, destination[0]);
	sip_word(&v, destination[1]);
	sip_word(&v, (__u64)f->source_port << 48 | (__u64)f->destination_port << 32 | s->slot);
	sip_word(&v, period);
	sip_word(&v, 48ULL << 56);
	v.c ^= 0xff;
	sip_round(&v);
	sip_round(&v);
	sip_round(&v);
	sip_round(&v);
	return (__u32)(v.a ^ v.b ^ v.c ^ v.d) & ~HALF;
}

/* Whether a frame is for the VM itself: at its MAC, and for an address of its own. */
static __always_inline int for_itself(const struct hv_port *port, const struct frame *f)
{
	int paired = paired_mac(port, f->destination_mac);

	if (!same_mac(f->destination_mac, port->mac) && !paired)
		return 0;
	if (!port->addresses || port->flags & HV_LEASED || among(port->address, port->addresses, &f->destination) ||
	    link_local(&f->destination))
		return 1;
#pragma unroll
	for (int i = 0; i < HV_PAIRS; i++)
		if (i < port->pairs && same_address(&port->pair[i].address, &f->destination))
			return 1;
	return 0;
}

/* Whether anybody honest can have sent this SYN just so: what we would send back is then no larger, and goes to one host. */
static __always_inline int answerable(struct __sk_buff *skb, const struct frame *f)
{
	const __u8 *a = f->source.bytes;

	if (skb->gso_size || f->source_mac[0] & 1 || same_address(&f->source, &f->destination) || skb->len < f->l4 + 20)
		return 0;
	if (f->ethertype == ETH_IPV4)
		return f->l4 == IPV4_END && a[12] && a[12] != 127 && a[12] < 224;
	return f->l4 == IPV6_END && *(const __u64 *)a && a[0] != 0xff;
}

/* What a frame to a port that is under proof has to do with it. Everything but SYNs and TCP in fragments is free. */
static __noinline __u32 asked_of(struct __sk_buff *skb, struct scratch *s, const struct hv_port *port, int readable)
{
	struct frame *f = &s->frame;
	struct hv_source_key key = { .slot = s->slot };
	struct hv_proven fresh, *proven;
	__u32 period = s->now >> PROOF_SHIFT, number;

	if (!port || (f->ethertype != ETH_IPV4 && f->ethertype != ETH_IPV6) || !for_itself(port, f))
		return HV_FREE;
	if (!readable)
		return HV_HOLD;	/* what hides its transport header may be a SYN */
	if (f->protocol != 6 || !f->l4 || f->multicast)
		return HV_FREE;
	key.address = f->source;
	/* A fragment may be too short for the flags, and padding lie in their place; no client begins with one. */
	if (f->traffic == HV_SYN || f->fragment) {
		proven = bpf_map_lookup_elem(&hv_proven, &key);
		if (proven && (s->now < proven->at_ns || s->now - proven->at_ns < PROVEN_NS))	/* see a_routers */
			return HV_FREE;
		return !f->fragment && answerable(skb, f) ? HV_ASK : HV_HOLD;
	}
	if (f->traffic != HV_RST || bpf_skb_load_bytes(skb, f->l4 + 4, &number, 4))
		return HV_FREE;
	number = bpf_ntohl(number) & ~HALF;
	if (number != cookie_of(s, period) && number != cookie_of(s, period - 1))
		return HV_FREE;
	fresh.at_ns = s->now;
	bpf_map_update_elem(&hv_proven, &key, &fresh, BPF_ANY);
	return HV_PROOF;
}

/*
 * Turn a SYN into our answer and send it back where it came from. All is changed in place, and sums are mended by what
 * changed, so that it does not matter whether a device still has to reckon them.
 */
static __noinline int answer(struct __sk_buff *skb, struct scratch *s)
{
	struct frame *f = &s->frame;
	struct hv_place *here = bpf_map_lookup_elem(&hv_places, &s->slot);
	__u32 l4 = f->l4, cookie = cookie_of(s, s->now >> PROOF_SHIFT);
	struct { __be32 number, acknowledged; __be16 flags, window; } was;
	__u8 *raw = s->raw.bytes, hops = 64;
	__be16 flags;

	if (bpf_skb_load_bytes(skb, l4 + 4, &was, sizeof(was)))
		return DROP;
	if (cookie - bpf_ntohl(was.number) - 1 < 0x10000)
		cookie ^= HALF;	/* it would acknowledge the SYN, or what is in it */
	__builtin_memcpy(raw, f->source_mac, 6);
	__builtin_memcpy(raw + 6, f->destination_mac, 6);
	if (bpf_skb_store_bytes(skb, 0, raw, 12, 0))
		return DROP;
	if (f->ethertype == ETH_IPV4) {
		__be16 old, new;

		if (bpf_skb_load_bytes(skb, ETH_HLEN + 8, raw, 12))
			return DROP;
		__builtin_memcpy(&old, raw, 2);
		raw[0] = hops;
		__builtin_memcpy(&new, raw, 2);
		__builtin_memcpy(raw + 4, &f->destination.bytes[12], 4);
		__builtin_memcpy(raw + 8, &f->source.bytes[12], 4);
		if (bpf_skb_store_bytes(skb, ETH_HLEN + 8, &new, 2, 0) || bpf_skb_store_bytes(skb, ETH_HLEN + 12, raw + 4, 8, 0) ||
		    bpf_l3_csum_replace(skb, ETH_HLEN + 10, old, new, 2))
			return DROP;
	} else {
		__builtin_memcpy(raw, f->destination.bytes, 16);
		__builtin_memcpy(raw + 16, f->source.bytes, 16);
		if (bpf_skb_store_bytes(skb, ETH_HLEN + 7, &hops, 1, BPF_F_RECOMPUTE_CSUM) ||
		    bpf_skb_store_bytes(skb, ETH_HLEN + 8, raw, 32, 0))
			return DROP;
	}
	raw[0] = f->destination_port >> 8;
	raw[1] = f->destination_port;
	raw[2] = f->source_port >> 8;
	raw[3] = f->source_port;
	flags = (was.flags & bpf_htons(0xf000)) | bpf_htons(0x0012);
	cookie = bpf_htonl(cookie);
	if (bpf_skb_store_bytes(skb, l4, raw, 4, 0) || bpf_l4_csum_replace(skb, l4 + 16, was.acknowledged, cookie, 4) ||
	    bpf_skb_store_bytes(skb, l4 + 8, &cookie, 4, 0) || bpf_l4_csum_replace(skb, l4 + 16, was.flags, flags, 2) ||
	    bpf_skb_store_bytes(skb, l4 + 12, &flags, 2, 0))
		return DROP;
	skb->mark = ANSWERED | (here && here->flags & HV_ROUTED);
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

/* What becomes of a frame that proof keeps from its port. */
static __always_inline int withhold(struct __sk_buff *skb, struct scratch *s, struct hv_counters *counters, int enforce)
{
	__u32 traffic = s->frame.traffic;
	int verdict;

	KEEP(traffic);
	if (traffic < HV_CLASSES)
		counters->by_class[HV_IN][traffic].limited += s->frame.packets;
	if (s->proof == HV_PROOF)
		counters->proven++;
	if (!enforce)
		return PASS;
	if (s->proof != HV_ASK)
		return DROP;
	verdict = answer(skb, s);
	if (verdict != DROP)
		counters->answered++;
	return verdict;
}
#endif
