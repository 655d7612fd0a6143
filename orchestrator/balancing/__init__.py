"""Whether another plan is worth the move, from what nodes are observed to do (pure)."""
