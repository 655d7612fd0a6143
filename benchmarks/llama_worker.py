"""A GGUF file in llama.cpp, its layers on RPC servers: a process of its own, for it registers servers for good.

``python -c "import llama_worker; llama_worker.serve()" FOLDER GGUF CONTEXT ENDPOINT ...`` answers a line of JSON,
``[what, prompt_ids, argument]``, by a line.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Llama:
    """One model and one text at a time; one thread here, and as many as each server has."""

    def __init__(self, folder: Path, gguf: Path, context_tokens: int, endpoints: Sequence[str]) -> None:
        """Load a model, its layers divided evenly.

        Args:
            folder: of `llama_build.built_folder`.
            endpoints: of servers, HOST:PORT.

        Raises:
            RuntimeError: it can't be loaded.
        """
        self._api = api = _binding(folder)
        api.llama_backend_init()
        _register(folder / "bin", endpoints)
        of_model = api.llama_model_default_params()
        of_model.n_gpu_layers = 999
        shares = (ctypes.c_float * api.llama_max_devices())(*[1.0] * len(endpoints))
        of_model.tensor_split = shares
        model = api.llama_model_load_from_file(os.fsencode(gguf), of_model)
        if not model:
            raise RuntimeError(f"llama.cpp can't load {gguf.name}")
        of_context = api.llama_context_default_params()
        of_context.n_ctx = of_context.n_batch = of_context.n_ubatch = context_tokens
        of_context.n_threads = of_context.n_threads_batch = 1
        self._context = api.llama_init_from_model(model, of_context)
        if not self._context:
            raise RuntimeError(f"llama.cpp can't make a context of {context_tokens} positions")
        self._vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        self._batch = api.llama_batch_init(context_tokens, 0, 1)

    def forced(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> list[int]:
        """The most likely token at each place of an answer, given those before it."""
        self._clear()
        ids = [*prompt_ids, *answer_ids[:-1]]
        begin = len(prompt_ids) - 1
        self._run(ids, 0, wanted=range(begin, len(ids)))
        return [self._most_likely(index) for index in range(begin, len(ids))]

    def prefill_s(self, prompt_ids: Sequence[int]) -> float:
        """Seconds until a prompt's first token is known."""
        self._clear()
        begun_s = time.perf_counter()
        self._next(prompt_ids, 0)
        return time.perf_counter() - begun_s

    def tokens_per_s(self, prompt_ids: Sequence[int], tokens: int) -> float:
        """Greedy decode speed; the first token (prefill) is not counted."""
        self._clear()
        token = self._next(prompt_ids, 0)
        begun_s = time.perf_counter()
        for position in range(len(prompt_ids), len(prompt_ids) + tokens - 1):
            token = self._next([token], position)
        return (tokens - 1) / (time.perf_counter() - begun_s)

    def _clear(self) -> None:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)

    def _next(self, ids: Sequence[int], position: int) -> int:
        last = len(ids) - 1
        self._run(ids, position, wanted=(last,))
        return self._most_likely(last)

    def _run(self, ids: Sequence[int], position: int, wanted: Sequence[int]) -> None:
        batch = self._batch
        batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            batch.token[index], batch.pos[index] = token, position + index
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
            batch.logits[index] = 0
        for index in wanted:
            batch.logits[index] = 1
        code = self._api.llama_decode(self._context, batch)
        if code:
            raise RuntimeError(f"llama_decode gave {code}")

    def _most_likely(self, index: int) -> int:
        logits = self._api.llama_get_logits_ith(self._context, index)
        return int(np.ctypeslib.as_array(logits, (self._vocab,)).argmax())


def _binding(folder: Path) -> Any:
    """The functions of llama.h; without what the package imports for its own server and chat formats."""
    os.environ["LLAMA_CPP_LIB_PATH"] = str(folder / "bin")
    package = types.ModuleType("llama_cpp")
    package.__path__ = [str(folder / "llama_cpp")]
    sys.modules["llama_cpp"] = package
    return importlib.import_module("llama_cpp.llama_cpp")


def _register(libraries: Path, endpoints: Sequence[str]) -> None:
    """Make servers devices that layers can be put on."""
    rpc, registry = (ctypes.CDLL(str(libraries / name)) for name in ("libggml-rpc.so", "libggml.so"))
    rpc.ggml_backend_rpc_add_server.argtypes = [ctypes.c_char_p]
    rpc.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
    registry.ggml_backend_register.argtypes = [ctypes.c_void_p]
    for endpoint in endpoints:
        registry.ggml_backend_register(rpc.ggml_backend_rpc_add_server(endpoint.encode()))


def serve() -> None:
    """Answer until input ends."""
    folder, gguf, context_tokens, *endpoints = sys.argv[1:]
    llama = Llama(Path(folder), Path(gguf), int(context_tokens), endpoints)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        print(json.dumps(getattr(llama, what)(*arguments)), flush=True)
