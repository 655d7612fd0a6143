"""Who belongs to a fleet: its private authority, its members, and what the broker is told of them."""
