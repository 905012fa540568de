/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the data plane and user space share. layout.py mirrors it; a test compares the two by BTF. */
#ifndef HYPERVIGIL_H
#define HYPERVIGIL_H

#define HV_CLASSES 11		/* TrafficClass */
#define HV_ALL 11		/* the bucket of all classes together */
#define HV_BUCKETS 12
#define HV_FORGED_KINDS 10	/* ForgedKind */
#define HV_ADDRESSES 8

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

struct hv_address { __u8 bytes[16]; };	/* IPv4 as ::ffff:a.b.c.d; a MAC as 6 bytes after 10 zeros */

struct hv_port {
	__u32 slot;
	__u32 generation;
	__u8 mac[6];
	__u8 mode;
	__u8 flags;
	__u32 addresses;	/* how many are bound; 0: only the MAC is */
	__u32 allows;
	struct hv_address address[HV_ADDRESSES];
	struct hv_address allow[HV_ADDRESSES];	/* who may be talked to in quarantine */
};

struct hv_class_counters { __u64 packets, octets, limited; };

struct hv_counters {
	struct hv_class_counters by_class[2][HV_CLASSES];
	__u64 forged[HV_FORGED_KINDS];
	__u64 new_destinations;
	__u64 failures;
	__u64 peers_created;
	__u64 events_lost;
};

struct hv_rate { __u64 packets_per_s_x1000, octets_per_s, end_ns; };

struct hv_limits {
	struct hv_rate rate[2][HV_BUCKETS];
	struct hv_rate new_destinations;
	__u64 gate_end_ns;
	__u32 gate;
	__u32 pad;
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
	__u8 pad;
};

struct hv_source_key { __u32 slot; struct hv_address address; };
struct hv_source { struct bpf_spin_lock lock; __u32 pad; struct hv_rate rate; struct hv_bucket bucket; };

struct hv_tripwires { __u32 packets_per_100ms[2][HV_CLASSES]; };
struct hv_windows { __u64 window[2][HV_CLASSES]; __u32 count[2][HV_CLASSES]; };

struct hv_event { __u64 at_ns; __u32 slot; __u32 direction; __u32 traffic; __u32 count; };
#endif
