"""Models: from a checkpoint to content-addressed weights and segments that nodes can run."""
