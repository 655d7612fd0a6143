"""The contract between nodes, orchestrator and clients: messages, topics and binary frames. Standard library only."""

PROTOCOL_VERSION = 2
"""Version of everything on the bus. Parts of different protocol versions refuse each other, those of the same one work
together whatever their packages' versions are. A release with other messages, frames or topics raises it."""

PACKAGE_VERSION = "0.1.0"
"""Version of this distribution; a test keeps it equal to pyproject.toml."""
