"""The embedded broker: amqtt (pure Python, MQTT 3.1.1) on a loopback port, for machines without Mosquitto.

Run as `python -m broker.embedded_broker --port N`; it ends on SIGTERM. Good for a demo on one machine; a fleet wants
Mosquitto.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.errors import BrokerError
from amqtt.session import Session

MQTT_5 = 5
CONNACK_UNACCEPTABLE_VERSION = bytes([0x20, 2, 0, 1])


def configuration(port: int) -> dict[str, object]:
    """amqtt's configuration: one anonymous listener on 127.0.0.1, and no $SYS messages."""
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}", "max_connections": 1_000}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }


class EmbeddedBroker(Broker):  # type: ignore[misc]  # amqtt has no types
    """amqtt's broker with two defects mended."""

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """Refuse MQTT 5 before amqtt reads it as 3.1.1, for it may then wait for bytes that never come."""
        try:
            head = await reader.readexactly(2)
            while head[-1] & 0x80 and len(head) < 5:  # the remaining length goes on
                head += await reader.readexactly(1)
            head += await reader.readexactly(7)  # protocol name and level
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        if head[-1] == MQTT_5:
            writer.write(CONNACK_UNACCEPTABLE_VERSION)
            writer.close()
            return
        await self._client_connected(listener_name, PrefixedReader(head, reader), StreamWriterAdapter(writer))

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        """Send what is retained to the subscriber; amqtt sends it to each new client, whoever subscribed."""
        subscribers = self._subscriptions.get(subscription[0], ())
        if any(subscriber.client_id == session.client_id for subscriber, _ in subscribers):
            await super()._publish_retained_messages_for_subscription(subscription, session)


class PrefixedReader(StreamReaderAdapter):  # type: ignore[misc]
    """A stream whose first bytes have been read already."""

    def __init__(self, prefix: bytes, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self._prefix = prefix

    async def read(self, n: int = -1) -> bytes:
        """Exactly `n` bytes, of the prefix first."""
        if n < 0:
            raise ValueError("this reader wants to know how many bytes")
        data, self._prefix = self._prefix[:n], self._prefix[n:]
        return data + (await super().read(n - len(data)) if len(data) < n else b"")


async def serve(port: int) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    broker = EmbeddedBroker(configuration(port), loop)
    await broker.start()
    await stop.wait()
    await broker.shutdown()


def main() -> int:
    """Exit code 1 with one line on stderr when the port can't be opened."""
    parser = argparse.ArgumentParser(prog="python -m broker.embedded_broker", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="loopback port to listen on")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)  # amqtt logs each connection at INFO and lost ones at ERROR
    try:
        asyncio.run(serve(arguments.port))
    except (BrokerError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
