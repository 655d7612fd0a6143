"""Calls of tools in one answer, as OpenAI's interface shows them (pure)."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Any

from orchestrator.text.tool_calls import FoundCall, ToolCallReader
from schemas.messages import ToolFormat


class AnswerCalls:
    """Splits an answer's text into content and calls. Without tools all of it is content."""

    def __init__(self, names: Collection[str]) -> None:
        """``names``: the tools that were offered."""
        self._names = names
        self._reader: ToolCallReader | None = None
        self.found: list[dict[str, Any]] = []
        """The calls so far."""

    def push(self, text: str, form: ToolFormat | None) -> list[dict[str, Any]]:
        """The deltas of a piece of text; ``form``: how the model writes calls."""
        if self._reader is None and form and self._names:
            self._reader = ToolCallReader(form, self._names)
        return self._deltas(self._reader.push(text) if self._reader else [text])

    def finish(self) -> list[dict[str, Any]]:
        """The deltas of what was held back."""
        return self._deltas(self._reader.finish() if self._reader else [])

    def _deltas(self, parts: list[str | FoundCall] | list[str]) -> list[dict[str, Any]]:
        return [{"content": part} if isinstance(part, str) else self._call(part) for part in parts if part]

    def _call(self, found: FoundCall) -> dict[str, Any]:
        function = {"name": found.name, "arguments": found.arguments}
        call = {"id": f"call_{secrets.token_hex(8)}", "type": "function", "function": function}
        self.found.append(call)
        return {"tool_calls": [{"index": len(self.found) - 1, **call}]}
