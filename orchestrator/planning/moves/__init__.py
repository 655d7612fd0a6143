"""Moves: what replacing a plan by another takes (pure)."""
