"""What gateway and monitor say to each other: a guest's parsed words, under the VM's name by the host's socket."""

from typing import Annotated

import msgspec
from msgspec import Meta

from hypervigil.model.ids import Instant, VmId
from hypervigil.wire.guest import FromGuest, Number, ToGuest


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", kw_only=True):
    pass


# --- gateway → monitor ---------------------------------------------------------------------------------------------
class Heard(_Message, frozen=True, kw_only=True, tag="heard"):
    """One message of a guest. ``vm`` is whose channel it came from; what the guest says of itself is in ``message``."""

    vm: VmId
    at: Instant
    """The host's clock when the line was whole."""
    message: FromGuest
    octets: Number = 0
    """Read of this guest since the message before, whatever they were."""


class ChannelOpen(_Message, frozen=True, kw_only=True, tag="open"):
    """The gateway reads this VM's channel from now on; whether an agent speaks there is another matter."""

    vm: VmId
    at: Instant


class ChannelLost(_Message, frozen=True, kw_only=True, tag="lost"):
    """The gateway cannot read this VM's channel."""

    vm: VmId
    at: Instant
    reason: str


class Unheard(_Message, frozen=True, kw_only=True, tag="unheard"):
    """What was not taken of a VM since the last such message, in lines unless said otherwise."""

    vm: VmId
    at: Instant
    garbage: Number = 0
    """Not our protocol."""
    too_long: Number = 0
    replayed: Number = 0
    """Not newer than what the same agent said before, or from an agent that another has followed."""
    over_rate: Number = 0
    """More lines than a guest may send."""
    held_back_ms: Number = 0
    """How long the channel was not read because the guest had sent more bytes than it may."""
    crowded_out: Number = 0
    """Taken, and dropped by the gateway because the monitor did not read."""
    untold: Number = 0
    """Lines for the guest that it did not take."""


FromGateway = Heard | ChannelOpen | ChannelLost | Unheard


# --- monitor → gateway ---------------------------------------------------------------------------------------------
class Channel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """The host's end of one VM's virtio-serial port."""

    vm: VmId
    path: Annotated[str, Meta(max_length=107)]
    """A unix socket that the hypervisor listens at."""


class WatchChannels(_Message, frozen=True, kw_only=True, tag="watch"):
    """Read these channels and no others."""

    channels: tuple[Channel, ...]


class Tell(_Message, frozen=True, kw_only=True, tag="tell"):
    """Say this to a VM's agent."""

    vm: VmId
    message: ToGuest


ToGateway = WatchChannels | Tell
