"""A small synchronous client of a running orchestrator."""

from orchestrator.client.client import LEASE_S, RENEW_S, Answer, Client
from orchestrator.client.errors import (
    AnswerFailed,
    AnswerIncomplete,
    ClientError,
    ControlRefused,
    NodeKeepsLayers,
    NodeStillHolds,
    NoOrchestrator,
)

__all__ = [
    "LEASE_S",
    "RENEW_S",
    "Answer",
    "AnswerFailed",
    "AnswerIncomplete",
    "Client",
    "ClientError",
    "ControlRefused",
    "NoOrchestrator",
    "NodeKeepsLayers",
    "NodeStillHolds",
]
