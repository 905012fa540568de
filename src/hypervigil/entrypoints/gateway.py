"""The gateway's process: no rights; reads guests' channels that the monitor names and hands on what is understood."""

import logging
import sys

from hypervigil.entrypoints.confine import confine
from hypervigil.entrypoints.options import parse_layout
from hypervigil.host.gateway.process import GatewayConfig, run


def main(argv: list[str] | None = None) -> None:
    """``python -m hypervigil.entrypoints.gateway --run-dir=… --state-dir=… --pin-dir=…``."""
    layout, _ = parse_layout(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    confine(open_files=8192)
    run(GatewayConfig(monitor_socket=layout.gateway_socket))


if __name__ == "__main__":
    main()
