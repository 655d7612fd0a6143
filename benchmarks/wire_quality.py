"""What the wire's element type costs: perplexity of a fixed text, and bytes per token and hop."""

from __future__ import annotations

from harness import Result, main, note
from judged import judge, text_ids
from rings import LocalChain
from smollm2 import open_smollm2

from orchestrator.model.model import Model
from schemas.codec import HEADER_BYTES, WIRE_DTYPES, Dtype, activation_payload_bytes
from schemas.messages import WireDtype

STAGES = 4
TEXT_TOKENS = 2000
MOST_PERCENT: dict[WireDtype, float] = {"fp16": 0.1, "int8": 0.5}


def _perplexity(model: Model, wire: WireDtype, ids: list[int]) -> float:
    """exp of the mean negative log-likelihood of every token but each window's first, in nats."""
    return judge(LocalChain(model, STAGES, wire=wire), ids).perplexity


def _bytes(model: Model) -> list[Result]:
    """Payload of one token's message, header included, against the bound of int8."""
    width = model.manifest.boundaries[0].width
    results = []
    for wire, dtype in WIRE_DTYPES.items():
        size = HEADER_BYTES + activation_payload_bytes(dtype, 1, width)
        target = {"at_most": width * 33 / 32 + 80} if dtype is Dtype.INT8 else {}
        results.append(Result(f"{wire}: bytes per token and hop, {width} values", size, "bytes", **target))
    return results


def measure(quick: bool) -> list[Result]:
    """Perplexity over four segments with fp16 and int8 between them, against fp32; the text is the licence's."""
    profiles = ("exact",) if quick else ("exact", "fast")
    results: list[Result] = []
    for profile in profiles:
        model = open_smollm2(profile)
        ids = text_ids(model, 40 if quick else TEXT_TOKENS)
        reference = _perplexity(model, "fp32", ids)
        results.append(Result(f"{profile} fp32: perplexity of {len(ids)} tokens", reference, "perplexity"))
        for wire, most in MOST_PERCENT.items():
            change = 100 * (_perplexity(model, wire, ids) / reference - 1)
            target = {"at_most": most} if profile == "exact" else {}
            results.append(Result(f"{profile} {wire}: perplexity against fp32", change, "%", **target))
            note(f"{profile} {wire}: {change:+.3f} %")
    return results + _bytes(open_smollm2("exact"))


if __name__ == "__main__":
    main("wire_quality", measure)
