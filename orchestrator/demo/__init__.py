"""A fleet on this machine with a small model, to try linguabus with."""
