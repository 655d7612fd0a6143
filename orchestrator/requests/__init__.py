"""Requests: who asks, who waits and what was answered so far (pure)."""
