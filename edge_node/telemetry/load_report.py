"""Reports about the loading of a segment: how far it is, what it took, why it failed."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from edge_node.core import NodeCore
from edge_node.effects import Effect
from edge_node.runtime.segment_runner import Loaded, LoadEvent, LoadFailed
from edge_node.telemetry import device

_log = logging.getLogger(__name__)


def load_effects(event: LoadEvent, core: NodeCore) -> Sequence[Effect]:
    """The effects of an event of the segment runner."""
    match event:
        case Loaded():
            rss_bytes, peak_rss_bytes = device.memory_bytes()
            _log.info("segment of epoch %s is loaded after %.1f s", event.key[1], event.load_s)
            return core.loaded(
                event.key,
                rss_bytes=rss_bytes,
                peak_rss_bytes=peak_rss_bytes,
                downloaded_bytes=event.downloaded_bytes,
                load_s=event.load_s,
                kv_value_bytes=event.kv_value_bytes,
                draft_failure=event.draft_failure,
            )
        case LoadFailed():
            _log.warning("segment of epoch %s failed: %s", event.key[1], event.reason)
            return core.segment_failed(event.key, event.reason, event.code)
    return core.loading(event.key, event.done_bytes, event.total_bytes)
