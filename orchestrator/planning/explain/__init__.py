"""Plans in words and numbers for people (pure)."""
