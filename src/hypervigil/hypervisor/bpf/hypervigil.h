/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the data plane and user space share. layout.py mirrors it; a test compares the two by BTF. */
#ifndef HYPERVIGIL_H
#define HYPERVIGIL_H

#define HV_CLASSES 11		/* TrafficClass */
#define HV_ALL 11		/* the bucket of all classes together */
#define HV_BUCKETS 12
#define HV_FORGED_KINDS 10	/* ForgedKind */
#define HV_ADDRESSES 8
#define HV_PAIRS 4
#define HV_LOCALS 4		/* link-local addresses that a port may hold besides what it is given */
#define HV_LEASES 4		/* addresses that a port may hold by DHCP */
#define HV_SERVERS 4		/* of DHCP that a port believes */
#define HV_NOBODY 0xffffffff	/* holds the link-local addresses that no single port may have */

enum hv_direction { HV_OUT, HV_IN };
enum hv_class { HV_SYN, HV_SYNACK, HV_RST, HV_TCP, HV_DNS, HV_UDP, HV_ICMP, HV_ARP, HV_FRAGMENT, HV_MULTICAST, HV_OTHER };
enum hv_forged {
	HV_F_MAC, HV_F_IPV4, HV_F_IPV6, HV_F_ARP, HV_F_ND, HV_F_DHCP_SERVER, HV_F_ROUTER_ADVERTISEMENT,
	HV_F_VLAN, HV_F_ETHERTYPE, HV_F_UNREADABLE,
};
enum hv_mode { HV_MONITOR = 1, HV_ENFORCE = 2 };
enum hv_gate { HV_OPEN, HV_ISOLATE, HV_QUARANTINE };
#define HV_MAY_SERVE_DHCP 1
#define HV_MAY_ADVERTISE_ROUTES 2
#define HV_LEASED 4		/* it may use what trusted servers give it, and but for what is bound nothing else */
#define HV_FREE_UNTIL_LEASED 8	/* but where it has nothing at all, what is nobody else's */

struct hv_address { __u8 bytes[16]; };	/* IPv4 as ::ffff:a.b.c.d; a MAC as 6 bytes after 10 zeros */

struct hv_pair { struct hv_address address; __u8 mac[6]; __u8 pad[2]; };

struct hv_port {
	__u32 slot;
	__u32 generation;
	__u8 mac[6];
	__u8 mode;
	__u8 flags;
	__u32 addresses;	/* how many are bound; 0: only the MAC is */
	__u16 allows;
	__u16 unchecked;	/* kinds of forgery that are its business */
	__u32 pairs;
	__u32 segment;		/* where its link-local addresses mean it */
	struct hv_address address[HV_ADDRESSES];
	struct hv_address allow[HV_ADDRESSES];	/* who may be talked to in quarantine */
	struct hv_pair pair[HV_PAIRS];		/* addresses that others may have too, with their MAC */
	__u8 server[HV_SERVERS][6];		/* of DHCP, that are believed */
	__u32 servers;
	__u8 within[4], mask[4];		/* what they may give */
};

#define HV_NEAR 65536		/* devices that are found without a hash; beyond it they are found all the same */

struct hv_class_counters { __u64 packets, octets, limited; };

struct hv_counters {
	struct hv_class_counters by_class[2][HV_CLASSES];
	__u64 forged[HV_FORGED_KINDS];
	__u64 new_destinations;
	__u64 failures;
	__u64 peers_created;
	__u64 events_lost;
	__u64 answered;		/* SYNs that were answered in place (proof.h) */
	__u64 proven;		/* answers to those answers */
	__u64 dialogues;	/* begun (dialogues.h); what of them is neither concluded nor held was pushed out */
	__u64 concluded;
	__u64 greeters;		/* services that speak first, first met; what is not held was pushed out */
};

struct hv_rate { __u64 packets_per_s_x1000, octets_per_s, end_ns; };

struct hv_limits {
	struct hv_rate rate[2][HV_BUCKETS];
	struct hv_rate new_destinations;
	__u64 gate_end_ns;
	__u64 proof_end_ns;	/* until then who begins a TCP connection to here has to prove its address (proof.h) */
	__u32 gate;
	__u32 armed;		/* 0: nothing is limited here, nor any source; then the rest is not looked at */
};

struct hv_bucket { __u64 last_ns; __s64 packets; __s64 octets; };	/* tokens: packets in 1e-6, octets in 1e-3 */

struct hv_buckets {
	struct bpf_spin_lock lock;
	__u32 pad;
	struct hv_bucket bucket[2][HV_BUCKETS];
	struct hv_bucket new_destinations;
};

struct hv_peer_key { __u32 slot; __u32 direction; struct hv_address address; };

struct hv_peer {
	__u64 first_ns, last_ns;
	__u64 packets, octets, openings, resets;
	__u64 ports_now, ports_before;	/* which of 64 hashed destination ports were tried in this second and the last */
	__u32 second;
	__u8 mac[6];
	__u8 admitted;		/* outbound: a frame to it was let through */
	__u8 silent;		/* dialogues in which the sender accepted and said nothing yet (dialogues.h) */
};

struct hv_dialogue_key { __u32 slot; __u16 own_port, other_port; struct hv_address address; };

struct hv_dialogue {
	__u64 opened_ns;
	__u32 asked, answered;	/* the numbers of the first octet that the client says, and the service */
	__u32 finish;		/* the number behind the client's last octet, by its FIN */
	__u8 direction;		/* of the SYN */
	__u8 first;		/* who spoke first (enum first) */
	__u8 finished;
	__u8 pad;
};

struct hv_greeter_key { __u32 slot; __u32 direction; struct hv_address address; __u16 port; __u8 pad[6]; };

/* A service that speaks first: dialogues since it was met. */
struct hv_greeter {
	__u64 last_ns;
	__u64 ended;
	__u64 curt;		/* of these, with few octets each way */
	__u64 alike;		/* of these, as long as the curt one before, nearly */
	__u64 varied;		/* of these, where the client said more or less than in the one before, and the answer was the same */
	__u64 lasted_ns;	/* how long those alike took, together */
	__u32 asked, answered;	/* octets of the last curt one */
};

struct hv_local_key { __u32 segment; struct hv_address address; };
struct hv_holder { __u32 slot; __u32 tick; };	/* tick: when it was used last; 0: it was given, not claimed */
struct hv_locals { struct bpf_spin_lock lock; __u32 pad; __u64 evicted; struct hv_address address[HV_LOCALS]; };

/* at_ns: when it was given or renewed; end_ns 0: there is none. */
struct hv_lease { struct hv_address address; __u64 at_ns; __u64 end_ns; };
/* refused: given by the server and another's, outside of the range, or beyond what there is room for */
struct hv_leases { struct hv_lease lease[HV_LEASES]; __u64 evicted; __u64 refused; };

struct hv_source_key { __u32 slot; struct hv_address address; };
struct hv_source { struct bpf_spin_lock lock; __u32 pad; struct hv_rate rate; struct hv_bucket bucket; };

struct hv_proven { __u64 at_ns; };
struct hv_secret { __u64 key[2]; };

struct hv_tripwires { __u32 packets_per_100ms[2][HV_CLASSES]; };
struct hv_windows { __u64 window[2][HV_CLASSES]; __u32 count[2][HV_CLASSES]; };

struct hv_event { __u64 at_ns; __u32 slot; __u32 direction; __u32 traffic; __u32 count; };

/* --- who may reach whom (fabric.h) --- */
#define HV_OUTSIDE 1		/* numbers of perimeters: 0 is none */
#define HV_STRANGER 2		/* has no grants */
#define HV_EVERYBODY 3		/* as a destination: what a perimeter may begin with any other, for frames to a group */
#define HV_FIRST_PERIMETER 16
#define HV_IS_GATEWAY 0x40000000	/* of a range's perimeter: it is a gateway, which may be the host itself */
#define HV_RANGES 64		/* of services in one set */
#define HV_ANYTHING 1		/* the set of all services */
#define HV_SERVICES_MASK 0xffff	/* of a grant: its set of services */
#define HV_ONE_WAY 0x10000	/* of a grant: the other end may not begin everything, so what was begun is remembered */
#define HV_BACK 0x20000		/* of a grant: the other end may begin something, perhaps just what answers are like */
#define HV_RANGE_BITS (32 + 128)
#define HV_FLOW_WAYS 8
#define HV_FLOW_SETS 128
#define HV_FRAGMENT_KEY 1
#define HV_DENIALS 5
#define HV_ROUTED 1		/* flags of a place: its network is routed by the host; it has a budget; one of frames to groups */
#define HV_BUDGET 2
#define HV_BROADCASTS 4

enum hv_denial { HV_D_STRANGER, HV_D_PATH, HV_D_FLOODED, HV_D_BUDGET, HV_D_BROADCAST };

/* Another word with each change, its lowest bit the bank in force; what tags of flows begin with. */
struct hv_epoch { __u64 word; __u64 seed; };

struct hv_place {
	__u32 perimeter[2];	/* by bank; 0: not mediated */
	__u32 gateway[2];	/* by bank: the perimeter of its network's gateway */
	__u32 network;
	__u16 generation;
	__u16 flags;
	__u32 account;		/* its VM's allowance: one for all ports of a VM */
	__u32 table;		/* the slot whose table keeps what it began: of a VM that has a budget for that, one of its ports' */
};

struct hv_member_key { __u32 network; __u8 mac[6]; __u8 pad[2]; };
struct hv_member { __u32 slot; __u32 ifindex; };
struct hv_range_key { __u32 prefix; __u32 bank; struct hv_address address; };
struct hv_grant_key { __u32 source; __u32 destination; };	/* bit 31 of the source: the bank */
struct hv_service_range { __u32 first, last; };
struct hv_services { struct hv_service_range range[HV_RANGES]; };	/* in order; those not used begin at the highest number */

struct hv_flow_key {
	struct hv_address begun, asked;
	__u16 begun_port, asked_port;	/* of an echo its identifier; of a fragment its identification */
	__u8 protocol;
	__u8 kind;
	__u16 generation;
};
struct hv_flow { __u32 tag; __u32 tick; struct hv_flow_key key; };
struct hv_flow_set { struct bpf_spin_lock lock; __u32 pad; struct hv_flow way[HV_FLOW_WAYS]; };

/* What a VM may take, at all of its ports together. */
struct hv_allowance {
	struct bpf_spin_lock lock;
	__u32 ways;		/* how many of a set's ways its conversations may take; 0: all */
	struct hv_rate rate, flows, broadcasts;
	struct hv_bucket bucket, flow_bucket, broadcast_bucket;
};

/* Whom a port sent to last, on one CPU, and what was granted then: as good as looking it up until something changes. */
struct hv_last { __u64 word; __u32 grant, perimeter, slot, ifindex; __u8 mac[6]; __u8 pad[2]; };

struct hv_crossings {
	__u64 denied[2][HV_DENIALS];
	__u64 straight;		/* packets that went past the bridge */
	__u64 flows;		/* conversations remembered */
	__u64 evicted;		/* live ones that had to go for another */
	struct hv_last last;
};
#endif
