"""A draft model made of the model itself: some of its blocks, with its own embedding and head (draft & verify,
arXiv 2309.08168). It needs no training, and is no better for that: models that were trained to be a pair guess better.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from harness import note


def self_draft(path: Path, blocks: Sequence[int]) -> Path:
    """A GGUF file with some blocks of another one, beside it; it is made once."""
    import gguf

    digest = hashlib.sha256(repr(list(blocks)).encode()).hexdigest()[:8]
    made = path.with_name(f"{path.stem}.{len(blocks)}-blocks-{digest}.gguf")
    if made.exists():
        return made
    note(f"making a draft model of blocks {', '.join(map(str, blocks))} of {path.name}")
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    partial = made.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = len(blocks) if name == f"{architecture}.block_count" else field.contents()
        writer.add_key_value(name, value, field.types[0], field.types[-1] if len(field.types) > 1 else None)
    places = {block: place for place, block in enumerate(blocks)}
    for tensor in reader.tensors:
        name = tensor.name
        if name.startswith("blk."):
            _, block, rest = name.split(".", 2)
            if int(block) not in places:
                continue
            name = f"blk.{places[int(block)]}.{rest}"
        writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(made)
    return made
