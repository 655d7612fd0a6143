"""The frames of a live move: KV rows, and their acknowledgement."""

from __future__ import annotations

from edge_node.effects import KvBlock
from schemas.codec import Dtype, Frame, Kind, KvRowsHeader, encode_frame, pack_kv_header
from schemas.messages import Epoch


def kv_rows_frame(
    block: KvBlock, epoch: Epoch, number: int, *, heads: int, head_dim: int, dtype: Dtype, rows: bytes
) -> bytes:
    """Rows of a KV cache, in message ``number`` of their copy. ``rows`` is (count, heads, head_dim)."""
    header = KvRowsHeader(layer=block.layer, part=block.part, heads=heads, head_dim=head_dim)
    return encode_frame(
        Frame(
            kind=Kind.KV_ROWS,
            request=block.request,
            epoch=epoch,
            attempt=number,
            position=block.position,
            count=block.count,
            width=heads * head_dim,
            dtype=dtype,
            payload=pack_kv_header(header) + rows,
        )
    )


def kv_ack_frame(basis: Epoch, number: int, stage: int) -> bytes:
    """Tells a source that ``stage`` of the epoch to be has taken in message ``number``."""
    return encode_frame(Frame(kind=Kind.KV_ACK, request=0, epoch=basis, attempt=number, position=stage))
