"""The operator's API: what an operator may ask of a running orchestrator (pure)."""
