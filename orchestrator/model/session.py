"""A segment run here, to check it or to know its answer; not to serve.

Past and present are separate arrays that grow, one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.model.errors import CannotRun, MissingDependency
from orchestrator.model.model import Model, SegmentSpec
from schemas import segment_tensors as tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray


class SegmentSession:
    """One segment, for one text.

    Raises:
        MissingDependency: onnxruntime is not installed.
        CannotRun: ONNX Runtime can't open it here, for want of memory for example.
    """

    def __init__(self, model: Model, spec: SegmentSpec) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependency("a model can't be run here", "orchestrator") from error

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        path = model.blobs_folder / spec.graph.sha256
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises many unrelated types
            raise CannotRun(spec.start, spec.stop, error) from error
        self._spec = spec
        self._cache: dict[str, NDArray[Any]] = {}
        self._length = 0
        """Tokens in the cache."""

    def run(self, given: NDArray[Any], logit_positions: Sequence[int] | None = None) -> NDArray[Any]:
        """Feed positions after those fed before.

        Args:
            given: ids [S], or hidden states [S, W].
            logit_positions: indices into S to compute logits for; None for the last.

        Returns:
            hidden states [S, W], or logits [n, V].

        Raises:
            CannotRun: as above.
        """
        import numpy as np

        count = len(given)
        total = self._length + count
        known: dict[str, NDArray[Any]] = {
            tensors.IDS: given[None],
            tensors.HIDDEN_IN: given[None],
            tensors.MASK: np.ones((1, total), np.int64),
            tensors.LENGTHS: np.array([total - 1], np.int32),
            tensors.TOTAL_LENGTH: np.array(total, np.int32),
            tensors.POSITIONS: np.arange(self._length, total, dtype=np.int64)[None],
            tensors.LOGIT_POSITIONS: np.array([count - 1] if logit_positions is None else logit_positions, np.int64),
        }
        for tensor in self._spec.inputs:
            if tensor.name.startswith(tensors.PAST) and tensor.name not in self._cache:
                shape = (1, int(tensor.shape[1]), 0, int(tensor.shape[3]))
                self._cache[tensor.name] = np.zeros(shape, np.dtype(tensor.dtype))
        known |= self._cache
        names = [tensor.name for tensor in self._spec.outputs]
        feeds = {tensor.name: known[tensor.name] for tensor in self._spec.inputs}
        try:
            outputs = self._session.run(names, feeds)
        except Exception as error:  # as above
            raise CannotRun(self._spec.start, self._spec.stop, error) from error
        result = dict(zip(names, outputs, strict=True))
        for name, value in result.items():
            if name.startswith(tensors.PRESENT):
                self._cache[name.replace(tensors.PRESENT, tensors.PAST)] = value
        self._length = total
        found: NDArray[Any] = result[tensors.LOGITS if tensors.LOGITS in result else tensors.HIDDEN_OUT][0]
        return found
