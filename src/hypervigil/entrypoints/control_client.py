"""The command line's way to the monitor: one request, one answer."""

import socket
from pathlib import Path
from typing import Any

from hypervigil.wire.control import Answer, Denied, Request, Response
from hypervigil.wire.frames import FrameDecoder, ProtocolError, encode

TIMEOUT_S = 10.0


class ControlError(Exception):
    """One sentence: what went wrong and the mend."""


def ask(path: Path, request: Request, *, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """The body of the monitor's answer; ``ControlError`` where there is none or it says no."""
    decoder: FrameDecoder[Response] = FrameDecoder(Response)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            connection.sendall(encode(request))
            while data := connection.recv(1 << 16):
                for response in decoder.feed(data):
                    match response:
                        case Answer(body=body):
                            return body
                        case Denied(reason=reason):
                            raise ControlError(reason)
    except (FileNotFoundError, ConnectionRefusedError):
        raise ControlError(
            f"Hypervigil does not run here (nothing answers at {path}): start it with 'hypervigil up'"
        ) from None
    except PermissionError:
        raise ControlError(f"you may not speak to Hypervigil at {path}: be root") from None
    except TimeoutError:
        raise ControlError(f"Hypervigil did not answer within {timeout_s:g} s: see 'hypervigil doctor'") from None
    except (OSError, ProtocolError) as error:
        raise ControlError(f"the conversation with Hypervigil at {path} broke off: {error}") from error
    raise ControlError(f"Hypervigil closed the connection at {path} without an answer: see 'hypervigil doctor'")
