"""A base class for objects that are closed when their ``with`` block is left, whatever happened in it."""

from __future__ import annotations

import abc
from typing import Self


class Closing(abc.ABC):
    """A context manager that calls its own ``close`` at the end."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free what the object holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
