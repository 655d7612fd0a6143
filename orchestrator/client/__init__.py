"""Clients of a running orchestrator: `Client` for one thread, `AsyncClient` for an event loop."""

from orchestrator.client.answer import Answer
from orchestrator.client.answer_reader import RENEW_S, Waiting
from orchestrator.client.async_answer import AsyncAnswer
from orchestrator.client.async_client import AsyncClient
from orchestrator.client.client import LEASE_S, Client
from orchestrator.client.errors import (
    AnswerFailed,
    AnswerIncomplete,
    ClientError,
    ControlRefused,
    NodeKeepsLayers,
    NodeStillHolds,
    NoOrchestrator,
    QuestionTooLong,
)

__all__ = [
    "LEASE_S",
    "RENEW_S",
    "Answer",
    "AnswerFailed",
    "AnswerIncomplete",
    "AsyncAnswer",
    "AsyncClient",
    "Client",
    "ClientError",
    "ControlRefused",
    "NoOrchestrator",
    "NodeKeepsLayers",
    "NodeStillHolds",
    "QuestionTooLong",
    "Waiting",
]
