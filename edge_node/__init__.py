"""A node: runs one stage of a ring, connected to nothing but the broker and the blob server."""
