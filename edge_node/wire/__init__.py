"""Bytes and names on the bus."""
