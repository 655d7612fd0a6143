"""The orchestrator as a running thing: threads, sockets, files."""
