"""Who asks, who waits and what was answered so far (pure)."""
