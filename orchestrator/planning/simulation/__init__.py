"""Simulation: fleets and their days in a file, played without any node (pure)."""
