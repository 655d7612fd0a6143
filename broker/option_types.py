"""Types of command line options that the programs share. What is outside of their limits is told in a sentence."""

from __future__ import annotations

import math
from typing import Any

import click

from broker.address import parse_broker_url
from broker.errors import BadBrokerUrl
from schemas import names


class WholeRange(click.IntRange):
    """A whole number within limits."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the number; whatever is none, or not within the limits, is a wrong option."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not a whole number{_within(self)}", param, ctx)


class IntOrWord(WholeRange):
    """A whole number within limits, or a word in its place."""

    def __init__(self, word: str, least: int, most: int) -> None:
        """``word`` stands for no number."""
        super().__init__(least, most)
        self._word = word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the number; None for the word."""
        if value in (None, self._word):
            return None
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message}, nor {self._word}", param, ctx)


class FiniteRange(click.FloatRange):
    """A number within limits. ``nan`` is none, though it is neither above nor below any limit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the number; whatever is none, or not within the limits, is a wrong option."""
        try:
            number = super().convert(value, param, ctx)
        except click.BadParameter:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number{_within(self)}", param, ctx)
        return number


class BrokerUrl(click.ParamType):  # type: ignore[type-arg]  # before click 8.4 it had none
    """The address of a broker; checked, and kept as it was written."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is none."""
        try:
            parse_broker_url(value)
        except BadBrokerUrl as error:
            self.fail(str(error), param, ctx)
        return str(value)


class MemberName(click.ParamType):  # type: ignore[type-arg]
    """A name for a device."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is none."""
        if not names.is_name(value):
            self.fail(names.RULE, param, ctx)
        return str(value)


def _within(limits: click.IntRange | click.FloatRange) -> str:
    """The limits in words."""
    if limits.max is None:
        return "" if limits.min is None else f" of {limits.min:,} or more"
    return f" from {limits.min:,} to {limits.max:,}"
