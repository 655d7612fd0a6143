"""A node: runs one stage of a ring, connected to nothing but the broker and the blob server."""

from schemas.usage_reports import turn_off

turn_off()
