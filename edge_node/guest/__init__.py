"""What makes a node a good guest on its device: its owner says when it works, and sees that it does."""
