"""Balancing: how slow nodes are observed to be, and whether another plan is worth the move (pure)."""
