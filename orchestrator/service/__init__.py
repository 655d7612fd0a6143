"""The orchestrator's service around the core: threads, sockets, files."""
