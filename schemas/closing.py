"""What is closed when its context is left, whatever happened in it."""

from __future__ import annotations

import abc
from typing import Self


class Closing(abc.ABC):
    """A context manager by its ``close``."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free what it holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
