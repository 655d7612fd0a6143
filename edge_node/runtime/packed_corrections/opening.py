"""Opens a graph with its corrections among the packed weights; a decode step then takes about nine tenths of its time.

Codes and scales without those of means are in files beside the blobs for as long as ONNX Runtime reads them.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnxruntime as ort

from edge_node.errors import runtime_reason
from edge_node.runtime.packed_corrections.graph_view import GraphView
from edge_node.runtime.packed_corrections.graph_without_means import Stored, without_means
from edge_node.runtime.packed_corrections.packed_sums import Replacement, replace
from edge_node.runtime.packed_corrections.products import Matrix, Product, corrected_products
from edge_node.runtime.packed_corrections.stored_blocks import StoredBlocks
from edge_node.runtime.packed_corrections.trial import may_work_here, works_here
from edge_node.runtime.session import open_session
from edge_node.storage.blob_files import SCRATCH_SUFFIX

_log = logging.getLogger(__name__)
_opening = threading.Lock()
"""Two that open the same weights would each find those of both."""


def open_with_corrections(graph_path: Path, threads: int) -> ort.InferenceSession | None:
    """Open a graph that was checked, with the CPU.

    Returns:
        None if it has no corrections, or they can't be had that way here: then it is to be opened as it is.
    """
    if not may_work_here():
        return None
    try:
        with _opening:
            return _open(graph_path, threads)
    except Exception as error:  # whatever it is, the graph as it is may do
        reason = getattr(error, "strerror", None) or runtime_reason(error)
        _log.warning("corrections of weights are inputs of products, which is slower: %s", reason)
        return None


def _open(graph_path: Path, threads: int) -> ort.InferenceSession | None:
    graph = GraphView(graph_path.read_bytes())
    products = [
        product
        for product in corrected_products(graph)
        if works_here(product.matrix.bits, product.matrix.block, threads)
    ]
    if not products:
        return None
    blocks = {product.matrix: StoredBlocks(product.matrix, graph_path.parent) for product in products}
    _check_room(blocks, graph_path.parent)
    with _beside(graph_path) as (made_path, codes_path, scales_path):
        # ONNX Runtime keeps scales mapped, and with them the file that they are in, but not codes, which it packs.
        with codes_path.open("wb") as codes, scales_path.open("wb") as scales:
            stored = {
                matrix: Stored(one.write_codes(codes), one.write_scales(scales)) for matrix, one in blocks.items()
            }
        made_path.write_bytes(without_means(graph, products, stored))
        session = open_session(made_path, threads)
    failure = replace(_replacements(products, blocks))
    if failure:
        raise RuntimeError(failure)
    return session


def _check_room(blocks: Mapping[Matrix, StoredBlocks], folder: Path) -> None:
    """A graph may name the same bytes as many matrices: no more is written than its blobs have, nor half of the disk.

    Raises:
        OSError: there is no room.
        ValueError: the matrices are more than the blobs.
    """
    names = {name for matrix in blocks for name in (matrix.codes.blob, matrix.scales.weights.blob)}
    wanted_bytes = sum(one.stored_bytes for one in blocks.values())
    # Scales that are halves in a blob are floats here.
    if wanted_bytes > 2 * sum((folder / name).stat().st_size for name in names):
        raise ValueError("the matrices are more than the files that they are in")
    if shutil.disk_usage(folder).free < 2 * wanted_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _replacements(products: Sequence[Product], blocks: Mapping[Matrix, StoredBlocks]) -> list[Replacement]:
    """A matrix stands in memory once for each product that has it."""
    times = Counter(product.matrix for product in products)
    return [
        Replacement(
            functools.partial(one.sums, corrected=False), functools.partial(one.sums, corrected=True), times[matrix]
        )
        for matrix, one in blocks.items()
    ]


@contextlib.contextmanager
def _beside(graph_path: Path) -> Iterator[list[Path]]:
    """Three files in the graph's folder that are gone afterwards; ONNX Runtime keeps what it has mapped."""
    paths: list[Path] = []
    try:
        for _ in range(3):
            with tempfile.NamedTemporaryFile(dir=graph_path.parent, suffix=SCRATCH_SUFFIX, delete=False) as file:
                paths.append(Path(file.name))
        yield paths
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
