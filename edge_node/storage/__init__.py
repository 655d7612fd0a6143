"""Blobs on the node's disk."""
