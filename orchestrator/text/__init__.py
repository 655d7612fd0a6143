"""Text for people: figures, units and tables."""
