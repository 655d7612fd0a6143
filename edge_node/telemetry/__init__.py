"""What a node measures and tells of itself, its link and its speed."""
