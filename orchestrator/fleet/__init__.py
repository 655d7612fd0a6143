"""Who is there and how they are (pure)."""
