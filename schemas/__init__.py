"""The contract between nodes, orchestrator and clients: messages, topics and binary frames. Standard library only."""

PROTOCOL_VERSION = 1
"""Version of everything on the bus. Parts of different protocol versions refuse each other."""

PACKAGE_VERSION = "0.1.0"
"""Version of this distribution; a test keeps it equal to pyproject.toml."""
