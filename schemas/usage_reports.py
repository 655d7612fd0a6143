"""Usage reports that libraries would send to their makers: turned off, here and in every process started from here.

ONNX Runtime 1.29 and newer, and onnxruntime-genai, keep a device id and a queue of reports in the user's cache folder
and send them off. Such a library reads its variable when it is imported, so this comes before: the packages that
have processes call `turn_off` when they are imported themselves, which no module of theirs can come before.
"""

from __future__ import annotations

import os

OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime and onnxruntime-genai
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and transformers and accelerate by way of it
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "DO_NOT_TRACK": "1",  # https://consoledonottrack.com
}
"""The variables of libraries that this project, or one of its dependencies, imports or runs."""


def turn_off() -> None:
    """Set the variables that turn usage reports off, whatever the environment says: nothing leaves the device."""
    os.environ.update(OFF)
