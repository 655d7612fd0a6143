"""A draft model: a small one of the same tokenizer, with which the node of the last stage guesses what follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.model.manifest import Manifest

if TYPE_CHECKING:
    from orchestrator.model.model import Model
    from orchestrator.model.tokenizer import ModelTokenizer

TAKE_ANOTHER = "serve with another --draft, or without"


@dataclass(frozen=True)
class ServedDraft:
    """A draft model opened for serving."""

    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    def context_tokens(self, of_plan: int) -> int:
        """Positions that it is used for, of so many that a text may have."""
        return draft_context(self.manifest, of_plan)

    def positions(self, of_plan: int) -> int:
        """Those of its segment: dummies behind a text included."""
        return self.context_tokens(of_plan) + self.manifest.numerics.spare_positions


def draft_context(manifest: Manifest, of_plan: int) -> int:
    """Positions that a draft model is used for, of so many that a text may have."""
    return min(of_plan, manifest.max_context - manifest.numerics.spare_positions)


def why_no_draft(draft: Model, model: Manifest, tokenizer: ModelTokenizer) -> str:
    """Why a model can't guess for another one, and what to do; empty if it can.

    Raises:
        BrokenModel: its tokenizer can't be read.
    """
    if draft.manifest.name == model.name:
        return f"it is that model itself; {TAKE_ANOTHER}"
    if draft.manifest.folds_positions:
        return f"it folds positions into a state, and can't go back behind a wrong guess; {TAKE_ANOTHER}"
    if not draft.tokenizer().has_tokens_of(tokenizer):
        return f"its tokenizer is another one, so that its guesses are other tokens; {TAKE_ANOTHER}"
    return ""
