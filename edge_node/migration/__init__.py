"""A stage's part in a live move: what is held, sent, received and taken over (pure)."""
