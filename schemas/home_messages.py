"""What a home-automation system is told of a fleet, and what it may ask for: states, retained, and two commands.

Flat and short, for templates such as ``{{ value_json.battery_percent }}``; what is not known is null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schemas.contract import about
from schemas.parts import Celsius, Count, Label, Name, NodeLabel, Percent, Rate
from schemas.registry import message


@message("home.fleet")
@dataclass(frozen=True, kw_only=True, slots=True)
class HomeFleet:
    """The fleet at this moment. Retained."""

    pipeline: Name = about("The service's name.")
    state: Label = about("In a word or two.")
    model: Name | None = about("The model that is served.")
    nodes: Count = about("Nodes that are here.")
    tokens_per_s: Rate = about("Generated over the last seconds.")
    open_requests: Count = about("Requests that are being answered.")
    queued_requests: Count = about("Requests that wait.")


@message("home.node")
@dataclass(frozen=True, kw_only=True, slots=True)
class HomeNode:
    """A node at this moment. Retained; empty when the node does not belong to the fleet any more."""

    node: Name = about("The node's name.")
    state: Literal["online", "silent", "offline", "refused"] = about("Is it there?")
    drained: bool = about("Is it given no layers, by an operator's wish or for its own state?")
    layers: Label = about("What it holds of the model; empty for nothing.")
    tokens_per_s: Rate = about("Of the answers that it has a part in, over the last seconds.")
    battery_percent: Percent | None = about("Charge, where there is a battery.")
    charging: bool | None = about("On a charger, where there is a battery.")
    temperature_c: Celsius | None = about("Hottest sensor that can be read, or the battery.")
    label: NodeLabel | None = about("What people call it, where that is not its name.", default=None)
