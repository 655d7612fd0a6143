"""Conversion steps in this process: torch and transformers are loaded once for many models."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.model import convert, genai_builder, gguf, parity, reference, source_graph
from orchestrator.model.errors import BrokenModel, ConversionFailed, UnsupportedModel


def run_here(module: str, arguments: list[str], what: str, on_line: Callable[[str], None], scratch: Path) -> None:
    """As `orchestrator.model.subproc.run_module`; what it prints goes nowhere, so ``on_line`` hears nothing."""
    paths = [Path(argument) for argument in arguments]
    try:
        if module == "orchestrator.model.genai_builder":
            genai_builder.build(*arguments[:4], arguments[4:])
        elif module == "orchestrator.model.reference":
            request = reference.ReferenceRequest(**json.loads(paths[2].read_text("utf-8")))
            reference.compute(paths[0], paths[1], request)
        elif module == "orchestrator.model.source_graph":
            source_graph.compute(*paths)
        else:
            assert module == "orchestrator.model.gguf"
            gguf.convert(*paths)
    except (BrokenModel, UnsupportedModel) as error:
        raise type(error)(f"{what} failed: {error}") from error
    except Exception as error:
        raise ConversionFailed(f"{what} failed: {type(error).__name__}: {error}".splitlines()[0]) from error


@contextmanager
def converting_here() -> Iterator[None]:
    """In the block all conversion steps run in this process."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's and transformers' own
        patch.setattr(convert, "run_module", run_here)
        patch.setattr(parity, "run_module", run_here)
        yield
