"""A mapping read from YAML, key by key, with errors that name the place: `fleet.yaml: devices[2].name: is missing`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.planning.errors import PlanningError


class Section:
    """A mapping of the file that knows its place and which of its keys were read."""

    def __init__(self, value: object, file: str, place: str) -> None:
        self._file, self._place = file, place
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise self.wrong("", "must be a mapping of keys to values")
        self._value: Mapping[Any, Any] = value
        self._read: set[str] = set()

    def wrong(self, key: str, why: str) -> PlanningError:
        place = ".".join(part for part in (self._place, key) if part)
        return PlanningError(f"{self._file}: {place + ': ' if place else ''}{why}")

    def _get(self, key: str) -> Any:
        self._read.add(key)
        return self._value.get(key)

    def section(self, key: str, *, optional: bool = False) -> Section:
        value = self._get(key)
        if value is None and not optional:
            raise self.wrong(key, "is missing")
        return Section(value, self._file, ".".join(part for part in (self._place, key) if part))

    def sections(self, key: str, *, optional: bool = False) -> list[Section]:
        value = self._get(key)
        if value is None and optional:
            return []
        if not isinstance(value, list) or not (value or optional):
            raise self.wrong(key, "must be a list with at least one entry")
        place = ".".join(part for part in (self._place, key) if part)
        return [Section(entry, self._file, f"{place}[{index}]") for index, entry in enumerate(value)]

    def number(self, key: str, default: float | None = None, *, above: float | None = None) -> float:
        """A finite number, at least 0 (or `above`); missing is an error without a default."""
        value = self._get(key)
        if value is None:
            if default is None:
                raise self.wrong(key, "is missing")
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.wrong(key, f"must be a number, not {value!r}")
        if above is not None and value <= above:
            raise self.wrong(key, f"must be above {above:g}")
        if value < 0:
            raise self.wrong(key, "must not be negative")
        return float(value)

    def maybe(self, key: str, *, above: float | None = None) -> float | None:
        return None if self._value.get(key) is None else self.number(key, above=above)

    def whole(self, key: str, default: int | None = None, *, least: int = 0) -> int:
        value = self.number(key, default)
        if value != int(value) or value < least:
            raise self.wrong(key, f"must be a whole number of at least {least}")
        return int(value)

    def maybe_whole(self, key: str, *, least: int = 0) -> int | None:
        return None if self._value.get(key) is None else self.whole(key, least=least)

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, f"must be true or false, not {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value:
            raise self.wrong(key, "must be a text" if value is not None else "is missing")
        return value

    def texts(self, key: str) -> list[str]:
        value = self._get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise self.wrong(key, "must be a list of texts")
        return value

    def end(self) -> None:
        """Refuse keys nobody asked for."""
        for key in self._value:
            if key not in self._read:
                known = ", ".join(sorted(self._read))
                raise self.wrong(str(key), f"is not a key here; there are {known}")
