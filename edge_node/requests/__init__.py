"""One request on one stage: its position, KV slot, steps, guesses and statistics (pure)."""
