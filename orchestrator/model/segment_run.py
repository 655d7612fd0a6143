"""Run a segment's graph here, for checking: past and present are separate arrays that grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.model.errors import MissingDependency, UnsupportedModel
from orchestrator.model.manifest import LayerCache
from orchestrator.model.wire import halves_of
from schemas import segment_tensors as tensors
from schemas.run_lengths import AS_WANTED, RunLengths

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

_FOLDER_OPTION = "session.model_external_initializers_file_folder_path"


def open_graph(graph: Path | bytes, folder: Path, threads: int = 1, *, prepack: bool = True) -> InferenceSession:
    """A session on the CPU of a graph whose weights are in files of ``folder``.

    Args:
        prepack: keep a copy of large weights in the kernels' own order. Without it those in float32 stay in mapped
            files and are ordered in each run; quantised ones can't be computed with at any speed.

    Raises:
        MissingDependency: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency("a model can't be run", "orchestrator") from error

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised, and told then
    options.add_session_config_entry(_FOLDER_OPTION, str(folder))
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    given = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


class SegmentRun:
    """A segment with the KV cache of one text, fed some tokens at a time.

    Args:
        layers: the shapes of the model's caches.
        run_lengths: how many positions are computed at once; behind fewer tokens stand dummies, as on nodes.
    """

    def __init__(
        self, session: InferenceSession, layers: Sequence[LayerCache], run_lengths: RunLengths = AS_WANTED
    ) -> None:  # fmt: skip
        self._session = session
        self._layers = layers
        self._run_lengths = run_lengths
        self._inputs = [i.name for i in session.get_inputs()]
        self._outputs = [o.name for o in session.get_outputs()]
        self.restart()

    def restart(self) -> None:
        """Forget the text: begin another one."""
        import numpy as np

        self.length = 0
        """Tokens in the cache."""
        self.cache: dict[str, NDArray[Any]] = {}
        """What is kept of each token, by the names of the segment's inputs."""
        self._states: dict[str, NDArray[Any]] = {}
        for layer in self._layers:
            for part, heads, dim in tensors.cache_parts(layer):
                name = tensors.past(layer.layer, part)
                if name in self._inputs:
                    self.cache[name] = np.zeros((1, heads, 0, dim), np.dtype(layer.dtype))
            for state in layer.states:
                name = tensors.past(layer.layer, state.name)
                if name in self._inputs:
                    self._states[name] = np.zeros((1, *state.shape), np.float32)

    def step(
        self,
        ids: Sequence[int],
        hidden: NDArray[Any] | None,
        logit_positions: Sequence[int] | None = None,
        others: Mapping[str, NDArray[Any]] | None = None,
    ) -> NDArray[Any]:
        """Feed S tokens after those fed before.

        Args:
            hidden: [1, S, W], unless the segment begins with the embedding.
            logit_positions: indices into ``ids`` to compute logits for; None for the last.
            others: what else the graph takes, by name.

        Returns:
            hidden states [1, S, W], or logits [1, n, V] of a segment with the head.

        Raises:
            UnsupportedModel: ONNX Runtime can't compute it.
        """
        import numpy as np

        count = len(ids)
        rows, attended = self._run_lengths.rows(count), self._run_lengths.attended(count)
        dummies = rows - count
        total = self.length + attended
        positions = [count - 1] if logit_positions is None else list(logit_positions)
        wanted = len(positions)
        positions += [0] * (self._run_lengths.rows(wanted) - wanted)
        feeds: dict[str, NDArray[Any]] = {
            tensors.IDS: np.array([[*ids, *[0] * dummies]], np.int64),
            tensors.MASK: np.ones((1, total), np.int64),
            tensors.LENGTHS: np.array([total - 1], np.int32),
            tensors.TOTAL_LENGTH: np.array(total, np.int32),
            tensors.POSITIONS: np.arange(self.length, self.length + rows, dtype=np.int64)[None],
            tensors.ATTENTION_PADS: np.array([0, 0, 0, 0, attended - rows, 0], np.int64),
            tensors.ATTENTION_END: np.array([rows], np.int64),
            tensors.LOGIT_POSITIONS: np.array(positions, np.int64),
            **{name: self._with_room(name, rows) for name in self.cache},
            **self._states,
            **(others or {}),
        }
        if hidden is not None and dummies:
            hidden = np.pad(hidden, ((0, 0), (0, dummies), (0, 0)))
        if hidden is not None and tensors.HALVES_IN in self._inputs:
            feeds[tensors.HALVES_IN], feeds[tensors.SCALE_IN] = halves_of(hidden)
        elif hidden is not None:
            feeds[tensors.HIDDEN_IN] = hidden
        try:
            results = self._session.run(self._outputs, {name: feeds[name] for name in self._inputs})
        except Exception as error:  # it has a class for each status, with no base of their own
            raise UnsupportedModel(f"ONNX Runtime can't compute this model: {str(error).splitlines()[0]}") from error
        named = dict(zip(self._outputs, results, strict=True))
        self.length += count
        for name in self.cache:
            self.cache[name] = named[name.replace(tensors.PAST, tensors.PRESENT)][:, :, : self.length]
        for name in self._states:
            self._states[name] = named[name.replace(tensors.PAST, tensors.PRESENT)]
        result: NDArray[Any] = named[tensors.LOGITS if tensors.LOGITS in named else tensors.HIDDEN_OUT]
        return result[:, : wanted if tensors.LOGIT_POSITIONS in self._inputs else count]

    def _with_room(self, name: str, rows: int) -> NDArray[Any]:
        """A cache as it goes into a run: a convolution writes new rows into it, attention makes a longer one."""
        import numpy as np

        kept = self.cache[name]
        is_longer = name.endswith(f".{tensors.CONV_PART}")
        return np.pad(kept, ((0, 0), (0, 0), (0, rows), (0, 0))) if is_longer else kept
