"""Explanations: plans in words and numbers for people (pure)."""
