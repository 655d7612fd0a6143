"""Finds the best plan and proves it."""
