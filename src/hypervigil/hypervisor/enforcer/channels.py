"""Opens guests' channels for the gateway: one after another, in a thread that no limit ever waits for."""

import asyncio
import contextlib
import logging
import os
import socket
from concurrent.futures import ThreadPoolExecutor

from hypervigil.hypervisor import channels
from hypervigil.hypervisor.adapters.libvirt.limits import DomainError
from hypervigil.hypervisor.enforcer.ports import Channels

log = logging.getLogger(__name__)

ASK_S = 2.0
MOST = 64
"""Connections at a time; the gateway asks on one."""


class ChannelDesk:
    """Each connection is one question and its answer."""

    def __init__(self, domains: Channels, *, gateway_uid: int) -> None:
        self._domains = domains
        self._uid = gateway_uid
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="channels")
        self.asking = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer with a descriptor, or by closing the connection."""
        if self.asking >= MOST:
            writer.close()
            return
        self.asking += 1
        raw: socket.socket = writer.get_extra_info("socket")
        try:
            untrusted_bytes = await asyncio.wait_for(reader.readexactly(channels.ID_OCTETS), ASK_S)
            with socket.socket(fileno=os.dup(raw.fileno())) as connection:
                connection.settimeout(ASK_S)
                answer = asyncio.get_running_loop().run_in_executor(
                    self._worker, self._answer, connection, untrusted_bytes
                )
                await answer
        except (channels.ChannelError, DomainError) as error:
            log.info("channel.refused reason=%s", error)
        except (OSError, EOFError, TimeoutError) as error:
            log.info("channel.not_asked error=%s", error)
        finally:
            self.asking -= 1
            with contextlib.suppress(OSError):
                writer.close()

    def _answer(self, connection: socket.socket, untrusted_bytes: bytes) -> None:
        path = self._domains.channel(channels.parse_vm(untrusted_bytes))
        channels.hand_over(connection, channels.open_channel(path), allowed_uid=self._uid)
