"""The orchestrator: models, planning, sessions, the command line."""
