"""How far what was computed is from what should have been: by row, as a share of what it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIKELY = 32
"""So many tokens of a row are told from each other with all bits that there are."""
SMALL_CHANGE = 1e-3
"""Of a hidden state: smaller changes are compared with so much of it, as its own rounding is part of them."""


def relative_differences(made: NDArray[Any], wanted: NDArray[Any]) -> NDArray[Any]:
    """Rows of logits [S, V], less their means, which say nothing: the length of what is wrong over that of ``wanted``.

    Infinite where what was computed is not finite.
    """
    import numpy as np

    made, wanted = made.astype(np.float64), wanted.astype(np.float64)
    centred = wanted - wanted.mean(-1, keepdims=True)
    return _shares(made - made.mean(-1, keepdims=True) - centred, np.linalg.norm(centred, axis=-1))


def likeliest(made: NDArray[Any], wanted: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of logits [S, V] those of each row's ``LIKELY`` most likely tokens in ``wanted``; a head may round the others."""
    import numpy as np

    columns = np.argsort(-wanted, axis=-1)[:, :LIKELY]
    return np.take_along_axis(made, columns, axis=-1), np.take_along_axis(wanted, columns, axis=-1)


def change_differences(before: NDArray[Any] | None, made: NDArray[Any], wanted: NDArray[Any]) -> NDArray[Any]:
    """Hidden states [S, W]: the length of what is wrong over that of the change from ``before`` to ``wanted``.

    Args:
        before: None for an embedding, which changes nothing: it makes all of ``wanted``.
    """
    import numpy as np

    wanted = wanted.astype(np.float64)
    size = np.linalg.norm(wanted, axis=-1)
    if before is not None:
        start = before.astype(np.float64)
        size = np.maximum(np.linalg.norm(wanted - start, axis=-1), SMALL_CHANGE * np.linalg.norm(start, axis=-1))
    return _shares(made.astype(np.float64) - wanted, size)


def _shares(wrong: NDArray[Any], size: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    shares = np.linalg.norm(wrong, axis=-1) / np.maximum(size, np.finfo(np.float32).tiny)
    return np.where(np.isfinite(shares), shares, np.inf)
