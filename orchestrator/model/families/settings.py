"""What the builder reads from configurations under names of its own: said in these before it looks.

What it doesn't find it takes from its defaults, without a word.
"""

from __future__ import annotations

from typing import Any

_EPSILONS = ("norm_eps", "layer_norm_eps", "norm_epsilon", "layer_norm_epsilon")


def name_epsilon(config: Any) -> None:
    """The epsilon of norms under the name that the builder looks for; else it takes one of its own."""
    if not hasattr(config, "rms_norm_eps"):
        for name in _EPSILONS:
            if hasattr(config, name):
                config.rms_norm_eps = getattr(config, name)


def window_everywhere(config: Any) -> None:
    """Name the sliding-window layers of a model that takes them as understood: all of them."""
    if getattr(config, "sliding_window", None) and getattr(config, "layer_types", None) is None:
        config.layer_types = ["sliding_attention"] * config.num_hidden_layers
