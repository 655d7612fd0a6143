"""Opens a graph with its corrections among the packed weights; a decode step then takes about nine tenths of its time.

The codes without those of means are written to a file beside the blobs for as long as ONNX Runtime reads it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnxruntime as ort

from edge_node.errors import SegmentUnusable, runtime_reason
from edge_node.runtime.packed_corrections.graph_view import GraphView
from edge_node.runtime.packed_corrections.graph_without_means import without_means
from edge_node.runtime.packed_corrections.packed_sums import Replacement, replace
from edge_node.runtime.packed_corrections.products import Product, corrected_products
from edge_node.runtime.packed_corrections.stored_blocks import StoredBlocks
from edge_node.runtime.packed_corrections.trial import works_here
from edge_node.runtime.session import open_session

_log = logging.getLogger(__name__)
SUFFIX = ".part"
"""Of files that are swept away if they are left behind (`edge_node.storage.blob_store`)."""


def open_with_corrections(graph_path: Path, threads: int) -> ort.InferenceSession | None:
    """Open a graph that was checked, with the CPU.

    Returns:
        None if it has no corrections, or they can't be had that way here: then it is to be opened as it is.
    """
    graph = GraphView(graph_path.read_bytes())
    blocks = {
        product: StoredBlocks(product, graph_path.parent)
        for product in corrected_products(graph)
        if works_here(product.bits, product.block, threads)
    }
    if not blocks:
        return None
    try:
        with _beside(graph_path) as (made_path, weights_path):
            with weights_path.open("wb") as file:
                stored = {product: one.write(file) for product, one in blocks.items()}
            made_path.write_bytes(without_means(graph, stored))
            session = open_session(made_path, threads)
        failure = replace(_replacements(blocks))
    except (OSError, SegmentUnusable) as error:
        failure = getattr(error, "strerror", None) or runtime_reason(error)
    if failure:
        _log.warning("corrections of weights are inputs of products, which is slower: %s", failure)
        return None
    return session


def _replacements(blocks: Mapping[Product, StoredBlocks]) -> list[Replacement]:
    """Those of matrices that several products have are one."""
    times = Counter((product.codes, product.scales, product.means) for product in blocks)
    by_matrix = {(product.codes, product.scales, product.means): one for product, one in blocks.items()}
    return [
        Replacement(
            functools.partial(one.sums, corrected=False), functools.partial(one.sums, corrected=True), times[matrix]
        )
        for matrix, one in by_matrix.items()
    ]


@contextlib.contextmanager
def _beside(graph_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two files in the graph's folder that are gone afterwards; ONNX Runtime keeps what it has mapped."""
    paths = []
    try:
        for _ in range(2):
            with tempfile.NamedTemporaryFile(dir=graph_path.parent, suffix=SUFFIX, delete=False) as file:
                paths.append(Path(file.name))
        yield paths[0], paths[1]
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
