"""Are the weights of a checkpoint those that its configuration asks for? For programs that convert or run it.

Libraries that load checkpoints fill in what is missing at random, skip what they have no use for, and say so in a log.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.model.errors import BrokenModel

_NAMED = 3
_PIECE_VALUES = 4 << 20


def check_names_and_shapes(checkpoint: Path) -> None:
    """Compare them without reading a weight.

    Raises:
        BrokenModel: weights are missing, left over or of another shape; names some.
    """
    import transformers

    auto: Any = transformers.AutoModelForCausalLM
    try:
        _, told = auto.from_pretrained(
            str(checkpoint),
            device_map="meta",
            dtype="auto",
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except pickle.UnpicklingError as error:  # torch reads weights and nothing else; its words say how to let it
        raise BrokenModel(
            f"{checkpoint} has *.bin files with more in them than weights, and none of it was run: take its safetensors"
        ) from error
    refuse_by_report(told)


def refuse_by_report(told: dict[str, Any]) -> None:
    """Look at what transformers tells of loading a model (``output_loading_info``).

    Raises:
        BrokenModel: weights are missing, left over or of another shape; names some.
    """
    for names, problem in (
        (told["missing_keys"], "lacks weights that its configuration asks for"),
        ((name for name, *_ in told["mismatched_keys"]), "has weights of another shape than its configuration says"),
        (told["unexpected_keys"], "has weights that its configuration has no use for"),
    ):
        _refuse(names, problem)


def check_finite(model: Any) -> None:
    """Look at every value of a loaded model.

    Raises:
        BrokenModel: there is NaN or infinity; names the weights.
    """
    import torch

    def is_finite(weight: torch.Tensor) -> bool:
        pieces: Any = weight.detach().flatten().split(_PIECE_VALUES)  # type: ignore[no-untyped-call]
        return all(bool(torch.isfinite(piece).all()) for piece in pieces)

    not_finite = (name for name, weight in model.named_parameters() if not is_finite(weight))
    _refuse(not_finite, "has NaN or infinity in its weights")


def _refuse(names: Iterable[str], problem: str) -> None:
    found = sorted(names)
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise BrokenModel(f"the checkpoint {problem}: {', '.join(found[:_NAMED])}{more}; get it anew, from its authors")
