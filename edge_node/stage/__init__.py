"""One stage of one epoch: its requests and the order in which they are computed (pure)."""
