"""The kernel's files as a guest shows them, with chosen numbers."""

STAT = """cpu  {user} 0 0 {idle} 0 0 0 {steal} 0 0
cpu0 {user} 0 0 {idle} 0 0 0 {steal} 0 0
cpu1 0 0 0 0 0 0 0 0 0 0
intr 12 3 4
ctxt 1
processes {forks}
procs_running 3
"""
MEMINFO = "MemTotal:         200000 kB\nMemFree:  1 kB\nMemAvailable:     {available} kB\n"
DISKSTATS = """ 254       0 vda {reads} 0 {sectors} 5 {writes} 0 8 5 0 {busy} 10 0 0 0 0 0 0
 254       1 vda1 9 9 9 9 9 9 9 9 9 9 9 0 0 0 0 0 0
   7       0 loop0 9 9 9 9 9 9 9 9 9 9 9 0 0 0 0 0 0
 253       0 dm-0 9 9 9 9 9 9 9 9 9 9 9 0 0 0 0 0 0
"""
NET_DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs …
    lo:  99 99 0 0 0 0 0 0 99 99 0 0 0 0 0 0
  eth0: {rx_bytes} {rx} 0 0 0 0 0 0 {tx_bytes} {tx} 1 {tx_drop} 0 0 2 0
docker0: 77 77 0 0 0 0 0 0 77 77 0 0 0 0 0 0
"""
SNMP = """Ip: Forwarding DefaultTTL InReceives
Ip: 1 64 20128
Icmp: InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds
Icmp: 21 0 0 {unreachable} 0
IcmpMsg: InType3
IcmpMsg: 1
Tcp: RtoAlgorithm ActiveOpens PassiveOpens AttemptFails EstabResets InSegs OutSegs RetransSegs InErrs OutRsts
Tcp: 1 {opened} {accepted} {failed} 0 1 1 {retransmitted} 0 {resets}
Udp: InDatagrams
Udp: 118
"""
NETSTAT = (
    "TcpExt: SyncookiesSent TCPAbortOnTimeout TCPAbortOnData\nTcpExt: 1 {timed_out} 3\nIpExt: InOctets\nIpExt: 4\n"
)
SNMP6 = "Ip6InReceives                   \t3\nIcmp6InDestUnreachs             \t{unreachable6}\n"
INTERRUPTS = """            CPU0       CPU1
  8:          1          0  IO-APIC   8-edge      rtc0
 24:         {irq}          2  PCI-MSI 49153-edge      virtio0-input.0
 25:          1          1  PCI-MSI 49154-edge      virtio0-output.0
NMI:          7          7   Non-maskable interrupts
"""
VMSTAT = "nr_free_pages 1\npswpin {swapped}\npswpout 1\nballoon_inflate {inflated}\nballoon_deflate 4\n"

ZERO = dict.fromkeys(
    (
        *("user", "idle", "steal", "forks", "available", "reads", "sectors", "writes", "busy"),
        *("rx_bytes", "rx", "tx_bytes", "tx", "tx_drop", "unreachable", "opened", "accepted", "failed"),
        *("retransmitted", "resets", "timed_out", "unreachable6", "irq", "swapped", "inflated"),
    ),
    0,
)


def files(**numbers: int) -> dict[str, bytes]:
    """All files the agent reads, zero but for these numbers."""
    known = {**ZERO, **numbers}
    texts = {
        "stat": STAT,
        "meminfo": MEMINFO,
        "diskstats": DISKSTATS,
        "interrupts": INTERRUPTS,
        "vmstat": VMSTAT,
        "net/dev": NET_DEV,
        "net/snmp": SNMP,
        "net/netstat": NETSTAT,
        "net/snmp6": SNMP6,
    }
    return {name: text.format(**known).encode() for name, text in texts.items()}
