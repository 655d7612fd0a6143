"""The embedded broker: amqtt (pure Python, MQTT 3.1.1) on a loopback port, for machines without Mosquitto.

Run as `python -m broker.embedded --port N`; it ends on SIGTERM. Good for a demo on one machine; a fleet wants Mosquitto.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys

from amqtt.broker import Broker
from amqtt.errors import BrokerError


def configuration(port: int) -> dict[str, object]:
    """amqtt's configuration: one anonymous listener on 127.0.0.1, and no $SYS messages."""
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}", "max_connections": 1_000}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }


async def serve(port: int) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    broker = Broker(configuration(port), loop)
    await broker.start()
    await stop.wait()
    await broker.shutdown()


def main() -> int:
    """Exit code 1 with one line on stderr when the port can't be opened."""
    parser = argparse.ArgumentParser(prog="python -m broker.embedded", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="loopback port to listen on")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)  # amqtt logs each connection at INFO and lost ones at ERROR
    try:
        asyncio.run(serve(arguments.port))
    except (BrokerError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
