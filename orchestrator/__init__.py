"""The orchestrator: models, planning, requests, the command line."""

from schemas.usage_reports import turn_off

turn_off()
