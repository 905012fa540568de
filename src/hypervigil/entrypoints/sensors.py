"""The sensors' process: no rights; fetches map descriptors from the enforcer and streams what it sees."""

import logging
import sys

from hypervigil.entrypoints.confine import confine
from hypervigil.entrypoints.options import layout_alone
from hypervigil.hypervisor.sensors.process import SensorsConfig, run


def main(argv: list[str] | None = None) -> None:
    """``python -m hypervigil.entrypoints.sensors --run-dir=… --state-dir=… --pin-dir=…``."""
    layout = layout_alone(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    confine()
    run(SensorsConfig(maps_socket=layout.maps_socket, monitor_socket=layout.sensors_socket))


if __name__ == "__main__":
    main()
