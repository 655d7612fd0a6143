"""A served model, as the core sees it: a tokenizer, a manifest, segments that can be fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.model.manifest import Manifest
from orchestrator.model.quality_report import UNJUDGED_WIRE
from orchestrator.model.served_draft import ServedDraft
from schemas.messages import BlobRef, KvLayer, ProbePart, ToolFormat, WireDtype


class TextStream(Protocol):
    """Turns one answer's tokens into text, whole characters only."""

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""

    def finish(self) -> str:
        """The text that is left at the end of the answer."""


class Tokenizer(Protocol):
    """A model's tokenizer and chat template; ``orchestrator.model.tokenizer.ModelTokenizer`` is one."""

    def encode(self, text: str) -> list[int]:
        """Token ids of raw text; markers in it are control tokens."""

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Token ids of a conversation under the chat template, ready for the assistant's turn.

        What stands in messages and tools is text, whatever it looks like.
        """

    @property
    def tool_format(self) -> ToolFormat | None:
        """How the model writes tool calls; None where that is not known."""

    def check_template(self) -> str:
        """Why the chat template makes no prompt of a plain question; empty if it does."""

    def token_text(self, token_id: int) -> str:
        """The text of one token by itself, spaces in front of it included; empty for a control token."""

    def stream(self) -> TextStream:
        """A fresh decoder for one answer."""


@dataclass(frozen=True)
class Expectation:
    """What may come next in an answer that is bound to a form."""

    expected: tuple[int, ...]
    """Tokens that nothing else can come for, and guesses that may come."""
    masks: tuple[bytes | None, ...]
    """The set of tokens that may come at each position, as in `schemas.token_mask`, or None where only the expected one
    may; as long as it is the expected tokens that come."""
    failure: str = ""
    """Why it can't be told."""


class GrammarState(Protocol):
    """How far an answer is that is bound to a form."""

    def take(self, ids: Sequence[int]) -> int:
        """Go on behind these tokens; how many of them may come."""

    @property
    def is_complete(self) -> bool:
        """Can nothing follow any more?"""

    def expect(self, guess: Sequence[int]) -> Expectation:
        """What may come next, along a guess as far as it may come."""


class AnswerGrammar(Protocol):
    """A form of answers, compiled for a model; ``orchestrator.model.grammar.CompiledGrammar`` is one."""

    vocab_size: int

    def begin(self) -> GrammarState:
        """The state at the beginning of an answer."""


@dataclass(frozen=True)
class ServedModel:
    """A model opened for serving."""

    manifest: Manifest
    tokenizer: Tokenizer
    probe_parts: tuple[ProbePart, ...] = ()
    """What nodes measure themselves with; nothing: they are planned with the speed they report."""
    wire: WireDtype = UNJUDGED_WIRE
    """The type of hidden states on the wire where nobody chose one."""
    draft: ServedDraft | None = None
    """What guesses for it, where there is room."""

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def names(self) -> frozenset[str]:
        """Names of the models whose files it needs."""
        return frozenset((self.name, self.draft.name) if self.draft else (self.name,))


@dataclass(frozen=True, kw_only=True)
class BuiltSegment:
    """A stage's graph and weights, ready to be fetched from the blob server."""

    graph: BlobRef
    blobs: tuple[BlobRef, ...]
    answer: BlobRef | None = None
    """What its node has to compute before it is used; None: that is not known here."""
    kv_layers: tuple[KvLayer, ...]
    width_in: int
    width_out: int
    draft: BuiltSegment | None = None
    """All of a draft model, on the node of the last stage."""

    @property
    def files(self) -> tuple[BlobRef, ...]:
        """All files that the segment's node has to fetch."""
        of_draft = self.draft.files if self.draft else ()
        return (self.graph, *self.blobs, *((self.answer,) if self.answer else ()), *of_draft)
