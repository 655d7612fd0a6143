"""The tables of the database, version by version."""

from __future__ import annotations

SCHEMAS = (
    """
CREATE TABLE epochs (pipeline TEXT PRIMARY KEY, generation INTEGER NOT NULL, counter INTEGER NOT NULL);
CREATE TABLE plans (
    pipeline TEXT NOT NULL, generation INTEGER NOT NULL, counter INTEGER NOT NULL,
    model TEXT NOT NULL, committed_at REAL NOT NULL, details TEXT NOT NULL,
    PRIMARY KEY (pipeline, generation, counter)
);
CREATE TABLE nodes (node TEXT PRIMARY KEY, seen_at REAL NOT NULL, birth TEXT NOT NULL);
CREATE TABLE requests (request TEXT PRIMARY KEY, pipeline TEXT NOT NULL, client TEXT NOT NULL, begun_at REAL NOT NULL);
""",
    """
CREATE TABLE profiles (
    node TEXT NOT NULL, fingerprint TEXT NOT NULL, threads INTEGER NOT NULL, emulated_speed REAL NOT NULL,
    measured_at REAL NOT NULL, drift REAL NOT NULL, measured TEXT NOT NULL, PRIMARY KEY (node, fingerprint)
);
CREATE TABLE constraints (pipeline TEXT PRIMARY KEY, stated_at REAL NOT NULL, wishes TEXT NOT NULL)
""",
    """
CREATE TABLE drained (node TEXT PRIMARY KEY, since REAL NOT NULL)
""",
    """
DROP TABLE IF EXISTS nodes
""",
    """
ALTER TABLE constraints RENAME COLUMN wishes TO constraints
""",
    """
DROP TABLE requests;
CREATE TABLE requests (
    request TEXT PRIMARY KEY, pipeline TEXT NOT NULL, begun_at REAL NOT NULL, submit BLOB NOT NULL,
    model TEXT, prompt BLOB, epoch TEXT
);
CREATE TABLE tokens (
    request TEXT NOT NULL, first INTEGER NOT NULL, ids BLOB NOT NULL, PRIMARY KEY (request, first)
)
""",
    """
ALTER TABLE requests ADD COLUMN ttft_s REAL
""",
    """
CREATE TABLE labels (node TEXT PRIMARY KEY, label TEXT NOT NULL)
""",
    """
CREATE TABLE running (pipeline TEXT PRIMARY KEY, plan BLOB NOT NULL);
CREATE TABLE tenures (pipeline TEXT PRIMARY KEY, orchestrator TEXT NOT NULL)
""",
)
"""What each version changed."""
SCHEMA_VERSION = len(SCHEMAS)
