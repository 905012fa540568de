"""The gateway's process: no rights; reads channels that the enforcer opens and hands on what is understood."""

import logging
import socket
import sys

from hypervigil.entrypoints.confine import confine
from hypervigil.entrypoints.options import layout_alone
from hypervigil.host.gateway.process import GatewayConfig, run
from hypervigil.hypervisor.channels import fetch
from hypervigil.model.ids import VmId


def main(argv: list[str] | None = None) -> None:
    """``python -m hypervigil.entrypoints.gateway --run-dir=… --state-dir=… --pin-dir=…``."""
    layout = layout_alone(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    confine(open_files=8192)

    def connect(vm: VmId, _path: str) -> socket.socket:
        return fetch(layout.channels_socket, vm)

    run(GatewayConfig(monitor_socket=layout.gateway_socket, connect=connect))


if __name__ == "__main__":
    main()
