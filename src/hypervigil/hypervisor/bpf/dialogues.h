/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Dialogues: what was said on a TCP connection, in octets, and by whom first, without a byte of it. A SYN-ACK tells the
 * numbers that both ends begin with, the service's last frame those that they end with, and the first frame in which the
 * service says something what it had been told before. No other frame is looked at, and none of a connection under way.
 *
 * Of services that speak first, before they were told more than a name, it is counted how many dialogues were curt, and how many of these were like the one before.
 * What a service's frames say is believed, since who guesses at it does not send them; who is its client may only add to
 * what is counted of it.
 */
#ifndef HYPERVIGIL_DIALOGUES_H
#define HYPERVIGIL_DIALOGUES_H

#define CURT 2560		/* octets each way: keys are agreed on and a name is refused, and no work is done */
#define LIKE_SERVICE 16		/* a refusal may repeat the name that it refuses */
#define LIKE_CLIENT 32		/* names and passwords differ by so much */
#define NAME 44			/* a client may say its own name at once, as those of SSH do, and is asked for all else */
#define MANY 255		/* of a peer's dialogues in which the service said nothing yet: no longer counted exactly */
#define ACK 0x10

struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 65536); __type(key, struct hv_dialogue_key); __type(value, struct hv_dialogue); } hv_dialogues SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 16384); __type(key, struct hv_greeter_key); __type(value, struct hv_greeter); } hv_greeters SEC(".maps");

enum first { HV_NOBODY_YET, HV_CLIENT_FIRST, HV_SERVICE_FIRST };

/* Whether a frame begins a dialogue, may end one, or may be the first in which a service says something. */
static __always_inline int of_dialogue(const struct frame *f, const struct hv_peer *peer)
{
	if (f->traffic == HV_TCP)
		return f->ends || peer->silent;
	return f->traffic == HV_SYNACK || f->traffic == HV_RST;
}

static __always_inline __u32 between(__u64 one, __u64 other)
{
	return one > other ? one - other : other - one;
}

/* One more dialogue, or one less, in which the service said nothing yet. */
static __always_inline void more_silent(struct hv_peer *peer)
{
	if (peer->silent < MANY)
		peer->silent++;
}

static __always_inline void less_silent(struct hv_peer *peer)
{
	if (peer->silent && peer->silent < MANY)
		peer->silent--;
}

static __always_inline struct hv_peer *way_back(struct scratch *s)
{
	struct hv_peer_key key = { .slot = s->slot, .direction = 1 - s->direction, .address = s->dialogue.address };

	return bpf_map_lookup_elem(&hv_peers, &key);
}

/* A dialogue of the service that spoke first is over; ``sure``: by the service's own frame. Whether it is counted. */
static __always_inline int conclude(struct scratch *s, const struct hv_dialogue *d, struct hv_counters *counters, __u32 asked, __u32 answered, int sure)
{
	struct hv_greeter_key *key = &s->greeter;
	struct hv_greeter *fresh = &s->greeted, *known;
	int curt = asked <= CURT && answered <= CURT, like;

	__builtin_memset(key, 0, sizeof(*key));
	key->slot = s->slot;
	key->direction = d->direction;
	key->address = s->dialogue.address;
	key->port = d->direction == HV_OUT ? s->dialogue.other_port : s->dialogue.own_port;
	known = bpf_map_lookup_elem(&hv_greeters, key);
	if (!known) {
		if (!sure && !curt)
			return 0;
		__builtin_memset(fresh, 0, sizeof(*fresh));
		fresh->last_ns = s->now;
		fresh->ended = 1;
		if (curt) {
			fresh->curt = 1;
			fresh->asked = asked;
			fresh->answered = answered;
		}
		bpf_map_update_elem(&hv_greeters, key, fresh, BPF_ANY);
		counters->greeters++;
		return 1;
	}
	like = curt && known->curt && between(answered, known->answered) <= LIKE_SERVICE && between(asked, known->asked) <= LIKE_CLIENT;
	if (!sure && !like)
		return 0;
	known->last_ns = s->now;
	__sync_fetch_and_add(&known->ended, 1);
	if (!curt)
		return 1;
	__sync_fetch_and_add(&known->curt, 1);
	if (like) {
		__sync_fetch_and_add(&known->alike, 1);
		__sync_fetch_and_add(&known->lasted_ns, s->now > d->opened_ns ? s->now - d->opened_ns : 0);
		/* Another answer is one to something else, such as to who hangs up; but it may repeat the name that was said. */
		if (asked != known->asked && (answered == known->answered || answered - known->answered == asked - known->asked))
			__sync_fetch_and_add(&known->varied, 1);
	}
	known->asked = asked;
	known->answered = answered;
	return 1;
}

/* A service accepts a connection. Only who was asked accepts: nobody fills the map with answers to nothing. */
static __always_inline void begin(struct scratch *s, struct hv_peer *peer, struct hv_dialogue *old, struct hv_counters *counters, __u32 number, __u32 acknowledged)
{
	struct hv_dialogue *fresh = &s->opening;
	struct hv_peer *asking;

	if (old && old->asked == acknowledged && old->answered == number + 1)
		return;		/* said once more */
	asking = way_back(s);
	if (!asking || !asking->openings)
		return;
	if (!old || old->first != HV_NOBODY_YET)
		more_silent(peer);
	if (old)
		counters->concluded++;
	__builtin_memset(fresh, 0, sizeof(*fresh));
	fresh->opened_ns = s->now;
	fresh->asked = acknowledged;
	fresh->answered = number + 1;
	fresh->direction = 1 - s->direction;
	bpf_map_update_elem(&hv_dialogues, &s->dialogue, fresh, BPF_ANY);
	counters->dialogues++;
}

static __noinline int converse(struct __sk_buff *skb, struct scratch *s, struct hv_peer *peer)
{
	struct frame *f = &s->frame;
	struct hv_dialogue_key *key = &s->dialogue;
	struct hv_counters *counters;
	struct hv_dialogue *d;
	struct hv_peer *silent = peer;
	__u32 slot = s->slot, number, acknowledged, asked, answered, service;
	__u8 *b = s->raw.bytes;
	__s32 payload;
	int flags, out = s->direction == HV_OUT;

	counters = bpf_map_lookup_elem(&hv_counters, &slot);
	if (!peer || !counters || bpf_skb_load_bytes(skb, ETH_HLEN + (f->ethertype == ETH_IPV4 ? 2 : 4), b, 2))
		return 0;
	payload = (b[0] << 8 | b[1]) + (f->ethertype == ETH_IPV4 ? 0 : 40) + ETH_HLEN - f->l4;
	if (bpf_skb_load_bytes(skb, f->l4, b, 14))
		return 0;
	payload -= (b[12] >> 4) * 4;
	if (payload < 0)
		payload = 0;
	number = (__u32)b[4] << 24 | b[5] << 16 | b[6] << 8 | b[7];
	acknowledged = (__u32)b[8] << 24 | b[9] << 16 | b[10] << 8 | b[11];
	flags = b[13];
	key->slot = slot;
	key->own_port = out ? f->source_port : f->destination_port;
	key->other_port = out ? f->destination_port : f->source_port;
	key->address = out ? f->destination : f->source;
	d = bpf_map_lookup_elem(&hv_dialogues, key);
	if (f->traffic == HV_SYNACK) {
		begin(s, peer, d, counters, number, acknowledged);
		return 0;
	}
	if (!d)
		return 0;
	service = d->direction != s->direction;
	if (service && f->traffic == HV_TCP && d->first == HV_NOBODY_YET && payload && flags & ACK && number == d->answered) {
		d->first = acknowledged - d->asked <= NAME ? HV_SERVICE_FIRST : HV_CLIENT_FIRST;
		less_silent(peer);
	}
	if (f->traffic == HV_TCP && !f->ends)
		return 0;
	if (!service && f->traffic == HV_TCP) {
		d->finish = number + payload;
		d->finished = 1;
		return 0;
	}
	if (service) {
		asked = acknowledged - d->asked - (d->finished && acknowledged == d->finish + 1);
		answered = number + payload - d->answered;
	} else {
		asked = number - d->asked - (d->finished && number == d->finish + 1);
		answered = acknowledged - d->answered;
		if (d->first == HV_NOBODY_YET) {
			if (number != d->asked)
				return 0;	/* not the number at which it is heeded: it may go on */
			silent = way_back(s);
		}
	}
	if (d->first == HV_SERVICE_FIRST && !(flags & ACK ? conclude(s, d, counters, asked, answered, service) : service))
		return 0;	/* likewise */
	if (silent && d->first == HV_NOBODY_YET)
		less_silent(silent);
	bpf_map_delete_elem(&hv_dialogues, key);
	counters->concluded++;
	return 0;
}
#endif
