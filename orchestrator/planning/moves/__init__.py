"""What replacing a plan by another takes (pure)."""
