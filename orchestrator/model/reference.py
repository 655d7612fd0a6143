"""What transformers computes from a checkpoint, in float32: the truth that a converted model is compared with.

Run as ``python -m orchestrator.model.reference CHECKPOINT OUT REQUEST``, in a process of its own whose memory comes
back: the checkpoint is a mapped file, one weight at a time is float32, embedding and head in pieces. ``REQUEST`` is a
JSON file with a `ReferenceRequest`; ``OUT`` becomes a folder with

* ``report.json``: a `ReferenceReport`;
* ``short.npy`` [L + 1, S, W]: the hidden states before block 0, .. L - 1, and after the last one;
* ``logits.npy`` [S, V];
* ``long.npy`` [N + 1, T, W]: the same of a longer text through the first N blocks, if there is one;
* ``source-rows.json``: a `SourceRows` of the passages asked for;
* ``vectors.npz``: weights with one dimension (of norms, biases) by name;
* ``rope-KIND.npy`` [2, P, D / 2]: cosines and sines of the positions asked for, by kind of layer.

The longer text is there for what short ones do not show: attention windows, and positions past those that a scaled
rotary embedding was trained with. It goes through so many blocks that each kind of layer is among them.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.heap import trimming
from orchestrator.model.checkpoint_weights import check_finite
from orchestrator.model.quality_report import LARGEST_LOSS, ROWS_FILE, SourceRows

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

MARGIN_TOKENS = 8
"""So many past a window, or past the length a rotary embedding was trained with."""
WITHOUT_LIMIT = ("default", "dynamic", "longrope")
"""Kinds of rotary embedding that have nothing to show past a length: the last two end there once converted."""
ANY_LAYER = "any"
HEAD_PIECE_VALUES = 8 << 20


@dataclass(frozen=True)
class ReferenceRequest:
    """What to compute.

    Attributes:
        ids: S token ids.
        passages: token ids of texts of their own, to judge next tokens by.
        positions: those whose cosines and sines are wanted.
        most_tokens: the longer text is left out if it had to be longer than this.
        most_blocks: it goes through so many at most.
    """

    ids: list[int]
    passages: list[list[int]]
    positions: list[int]
    most_tokens: int
    most_blocks: int


@dataclass(frozen=True)
class ReferenceReport:
    """What was found.

    Attributes:
        library: name and version of what computed it.
        long_ids: the longer text; empty if there is none.
        long_blocks: N, how many blocks there are until each kind of layer was among them.
        kinds: of each layer.
        rope_kinds: the kinds that have a file of cosines and sines.
        left_out: what should have been computed and was not, in words.
    """

    library: str
    long_ids: list[int]
    long_blocks: int
    kinds: list[str]
    rope_kinds: list[str]
    left_out: list[str]


def compute(checkpoint: Path, out: Path, request: ReferenceRequest) -> None:
    """Write what the module's head says; layers are told of on standard output as they are done, those of
    all texts counted on.

    Raises:
        BrokenModel: a weight is NaN or infinite.
    """
    import torch

    out.mkdir(parents=True, exist_ok=True)
    model = _load(checkpoint)
    check_finite(model)
    with torch.no_grad():
        report = _Run(model, out).everything(request)
    (out / "report.json").write_text(json.dumps(dataclasses.asdict(report)), "utf-8")


def read_report(out: Path) -> ReferenceReport:
    """What `compute` wrote into ``out``."""
    return ReferenceReport(**json.loads((out / "report.json").read_text("utf-8")))


def read_hidden(out: Path) -> NDArray[Any]:
    """The short text's hidden states [L + 1, S, W] that `compute` wrote into ``out``, a view of the file."""
    import numpy as np

    hidden: NDArray[Any] = np.load(out / "short.npy", mmap_mode="r")
    return hidden


def _load(checkpoint: Path) -> Any:
    """The model with its weights as they are stored, and everything else in float32."""
    import torch
    import transformers
    from accelerate import init_empty_weights

    folder = str(checkpoint)
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    soft_capped = getattr(config, "attn_logit_softcapping", None)
    attention = "eager" if soft_capped else "sdpa"  # which knows no soft cap
    auto: Any = transformers.AutoModelForCausalLM
    stored = auto.from_pretrained(folder, dtype="auto", local_files_only=True)
    # Buffers made in the checkpoint's own type would be rounded to it, and computed with.
    with init_empty_weights(include_buffers=False):
        model = auto.from_config(config, dtype=torch.float32, attn_implementation=attention)
    model.load_state_dict(stored.state_dict(), strict=True, assign=True)
    return model.eval()


class _Run:
    """A model with hooks: weights are float32 while they are used, hidden states are kept."""

    def __init__(self, model: Any, out: Path) -> None:
        import torch

        self.model, self.config, self.out = model, model.config, out
        self.layers = next(
            m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == self.config.num_hidden_layers
        )
        self.hidden: list[torch.Tensor] = []
        self.layers_run = 0
        self.rope_calls: dict[str, tuple[Any, dict[str, Any]]] = {}
        self.rotary: Any = None
        head = model.get_output_embeddings()
        if head.weight.dtype != torch.float32:
            _multiply_in_float32(head)
        for module in model.modules():
            if module is head:
                continue
            if isinstance(module, torch.nn.Embedding) and module.weight.dtype != torch.float32:
                _look_up_in_float32(module)
            elif any(p.dtype != torch.float32 for p in module.parameters(recurse=False)):
                _compute_in_float32(module)
            if type(module).__name__.endswith("RotaryEmbedding"):
                self.rotary = module
                module.register_forward_pre_hook(self._on_rotary, with_kwargs=True)
        for layer in self.layers:
            layer.register_forward_pre_hook(self._before_layer, with_kwargs=True)
        self.layers[-1].register_forward_hook(self._after_layer)

    def _on_rotary(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kind = next((a for a in (*args, *kwargs.values()) if isinstance(a, str)), ANY_LAYER)
        self.rope_calls[kind] = (args, kwargs)

    def _before_layer(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._keep(args[0] if args else kwargs["hidden_states"])
        self.layers_run += 1
        sys.stdout.write(f"layer {self.layers_run}\n")
        sys.stdout.flush()

    def _after_layer(self, _module: Any, _args: Any, output: Any) -> None:
        self._keep(output[0] if isinstance(output, tuple) else output)

    def _keep(self, hidden: torch.Tensor) -> None:
        self.hidden.append(hidden[0].float().clone())

    def _save_hidden(self, name: str) -> None:
        import numpy as np
        import torch

        np.save(self.out / name, torch.stack(self.hidden).numpy())
        self.hidden.clear()

    def everything(self, request: ReferenceRequest) -> ReferenceReport:
        import numpy as np
        import torch
        import transformers

        logits = self.model(input_ids=torch.tensor([request.ids]), use_cache=False).logits
        np.save(self.out / "logits.npy", logits[0].float().numpy())
        self._save_hidden("short.npy")
        vectors = {name: weight.float().numpy() for name, weight in self.model.named_parameters() if weight.dim() == 1}
        np.savez(self.out / "vectors.npz", **vectors)
        rope_kinds = self._save_rope(request.positions)
        self._save_rows(request.passages)
        kinds = layer_kinds(self.config)
        blocks = blocks_with_every_kind(kinds)
        tokens, left_out = long_tokens(self.config, request)
        if blocks > request.most_blocks:
            blocks = request.most_blocks
            left_out.append(f"layers of the kinds that begin after the first {blocks}, on a longer text")
        long_ids = [(7 + 37 * i + i * i) % self.config.vocab_size for i in range(tokens)]
        if long_ids:
            del self.layers[blocks:]
            self.layers[-1].register_forward_hook(self._after_layer)
            self.model.base_model(input_ids=torch.tensor([long_ids]), use_cache=False)
            self._save_hidden("long.npy")
        return ReferenceReport(
            library=f"transformers {transformers.__version__}",
            long_ids=long_ids,
            long_blocks=blocks,
            kinds=kinds,
            rope_kinds=rope_kinds,
            left_out=left_out,
        )

    def _save_rows(self, passages: list[list[int]]) -> None:
        """Hidden states of all passages at once, then logits of one at a time, of which two figures a row are kept."""
        import torch

        longest = max(map(len, passages), default=0)
        # Nothing looks ahead, so it doesn't matter what stands behind a passage.
        ids = torch.tensor([[*passage, *[0] * (longest - len(passage))] for passage in passages])
        base = self.model.base_model
        whole: Any = base(input_ids=ids, use_cache=False) if passages else None
        self.hidden.clear()
        best: list[int] = []
        losses: list[float] = []
        for number, passage in enumerate(passages):
            # What makes logits of hidden states is in the model's own forward, with its soft caps and scales.
            states = whole.last_hidden_state[number : number + 1, : len(passage) - 1]
            known = type(whole)(last_hidden_state=states)
            base.forward = lambda *_, known=known, **__: known
            logits = self.model(input_ids=torch.tensor([passage[:-1]]), use_cache=False).logits[0].float()
            del base.forward
            best += logits.argmax(-1).tolist()
            costs = torch.nn.functional.cross_entropy(logits, torch.tensor(passage[1:]), reduction="none")
            losses += costs.clamp(max=LARGEST_LOSS).tolist()
        rows = SourceRows(tuple(map(tuple, passages)), tuple(best), tuple(losses))
        (self.out / ROWS_FILE).write_text(rows.to_json(), "utf-8")

    def _save_rope(self, positions: list[int]) -> list[str]:
        """Cosines and sines as the model itself computes them; one of two equal ones each."""
        import numpy as np
        import torch

        wanted = torch.tensor([positions])
        for kind, (args, kwargs) in self.rope_calls.items():
            swapped = [wanted if _is_positions(a) else a for a in args]
            cos, sin = self.rotary(*swapped, **{k: wanted if _is_positions(v) else v for k, v in kwargs.items()})
            both = torch.stack([cos[0], sin[0]]).float()  # [2, P, D]
            first, second = both.chunk(2, dim=-1)
            np.save(self.out / f"rope-{kind}.npy", (first if first.equal(second) else both[..., ::2]).numpy())
        return sorted(self.rope_calls)


def _is_positions(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.dtype == torch.int64


def _compute_in_float32(module: Any) -> None:
    """Let a module see its weights in float32, for as long as it computes."""
    import torch

    stored = dict(module._parameters)

    def before(*_: Any) -> None:
        for name, weight in stored.items():
            if weight is not None:
                module._parameters[name] = torch.nn.Parameter(weight.float(), requires_grad=False)

    def after(*_: Any) -> None:
        module._parameters.update(stored)

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)


def _look_up_in_float32(module: Any) -> None:
    """Let an embedding see no rows but those that are looked up, in float32."""
    import torch

    stored, padding = module.weight, module.padding_idx

    def before(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        ids, places = torch.unique(args[0], return_inverse=True)
        module._parameters["weight"] = torch.nn.Parameter(stored[ids].float(), requires_grad=False)
        module.padding_idx = None  # it numbers a row of the whole table, and matters to training only
        return (places, *args[1:])

    def after(*_: Any) -> None:
        module._parameters["weight"], module.padding_idx = stored, padding

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)


def _multiply_in_float32(head: Any) -> None:
    """Let the head multiply by some rows at a time, in float32; it has one for each token of the vocabulary."""
    import torch

    rows = max(1, HEAD_PIECE_VALUES // head.in_features)

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        made = [torch.nn.functional.linear(hidden, weight.float()) for weight in head.weight.split(rows)]
        logits = torch.cat(made, dim=-1)
        return logits if head.bias is None else logits + head.bias.float()

    head.forward = forward


def layer_kinds(config: Any) -> list[str]:
    """What tells layers apart: attention over all positions or a window of them, with rotary embedding or without."""
    count = config.num_hidden_layers
    types = getattr(config, "layer_types", None) or ["full_attention"] * count
    rotated = getattr(config, "no_rope_layers", None) or [1] * count  # its name notwithstanding, 1 is for rotated
    return [kind if has_rope else f"{kind}, no rope" for kind, has_rope in zip(types, rotated, strict=True)]


def blocks_with_every_kind(kinds: list[str]) -> int:
    """How many of the first layers there are until each kind is among them."""
    return 1 + max(kinds.index(kind) for kind in kinds)


def long_tokens(config: Any, request: ReferenceRequest) -> tuple[int, list[str]]:
    """The length of the longer text, 0 for none, and what it would have been for but is too long."""
    marks = {}
    types = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if window and (types is None or "sliding_attention" in types):
        marks[f"the attention window of {window} positions"] = window
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in ropes.values() if "rope_type" not in ropes else [ropes]:
        original = rope.get("original_max_position_embeddings") if isinstance(rope, dict) else None
        if original and rope.get("rope_type", "default") not in WITHOUT_LIMIT:
            marks[f"the {original} positions that the rotary embedding was trained with"] = original
    context = 1 + max(request.positions)
    wanted = {what: mark + MARGIN_TOKENS for what, mark in marks.items() if mark + MARGIN_TOKENS <= context}
    affordable = [tokens for tokens in wanted.values() if tokens <= request.most_tokens]
    left_out = [f"a text past {what}" for what, tokens in wanted.items() if tokens > request.most_tokens]
    return max([tokens for tokens in affordable if tokens > len(request.ids)], default=0), left_out


if __name__ == "__main__":
    request = ReferenceRequest(**json.loads(Path(sys.argv[3]).read_text("utf-8")))
    with trimming():
        compute(Path(sys.argv[1]), Path(sys.argv[2]), request)
