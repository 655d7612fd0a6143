"""Numbers of a heartbeat that can't be true (pure). Their range and form are checked where messages are read."""

from __future__ import annotations

from schemas.messages import Heartbeat, StageMetrics

MOST_MEMORY_BYTES = 2**44
"""16 TiB; a device with more than that is not lent to a fleet."""
MOST_CORES = 1024
COLDEST_C = -40.0
HOTTEST_C = 125.0
CLOCK_SLACK_S = 2.0
"""Between two figures of one heartbeat."""
DELAY_S = 60.0
"""Heartbeats may arrive late, several at once."""
BATTERY_GAIN_PERCENT = 25.0
"""More than any battery gains in `BATTERY_GAIN_S`. Old ones may lose as much, and a loss only spares the device."""
BATTERY_GAIN_S = 60.0


def oddities(beat: Heartbeat, before: Heartbeat | None, elapsed_s: float) -> tuple[str, ...]:
    """Figures of a heartbeat that can't be true, in words; ``before``, from ``elapsed_s`` ago, made sense."""
    found = _alone(beat)
    return tuple(found + (_since(beat, before, elapsed_s) if before else []))


def _alone(beat: Heartbeat) -> list[str]:
    found = []
    if beat.rss_bytes == 0 or beat.rss_bytes > beat.peak_rss_bytes:
        found.append(f"its memory is {beat.rss_bytes} bytes, {beat.peak_rss_bytes} at the most")
    if max(beat.peak_rss_bytes, beat.available_bytes) > MOST_MEMORY_BYTES:
        found.append(f"it has {max(beat.peak_rss_bytes, beat.available_bytes) / 1e12:.0f} TB of memory")
    if beat.cpu_percent is not None and beat.cpu_percent > 100 * MOST_CORES:
        found.append(f"it uses {beat.cpu_percent:.0f} % of a core")
    readings_c = [reading_c for reading_c in (beat.temperature_c, beat.battery_temperature_c) if reading_c is not None]
    return found + [
        f"it is at {reading_c:.0f} C" for reading_c in readings_c if not COLDEST_C <= reading_c <= HOTTEST_C
    ]


def _since(beat: Heartbeat, before: Heartbeat, elapsed_s: float) -> list[str]:
    found = []
    passed_s = beat.uptime_s - before.uptime_s
    if passed_s < 0:
        found.append(f"its clock went back by {-passed_s:.1f} s")
    elif passed_s > elapsed_s + DELAY_S:
        found.append(f"its clock went forward by {passed_s:.0f} s in {elapsed_s:.0f} s")
    # The kernel's own count of the largest resident memory may fall by some pages.
    counters = ("frames_rejected", "frames_dropped", "reconnects")
    found += [f"its {name} fell" for name in counters if getattr(beat, name) < getattr(before, name)]
    charge, charge_before = beat.battery_percent, before.battery_percent
    if (
        charge is not None
        and charge_before is not None
        and elapsed_s < BATTERY_GAIN_S
        and charge - charge_before > BATTERY_GAIN_PERCENT
    ):
        found.append(f"its battery went from {charge_before:.0f} to {charge:.0f} % in {elapsed_s:.0f} s")
    stages_before = {_key(stage): stage for stage in before.stages}
    for stage in beat.stages:
        earlier = stages_before.get(_key(stage))
        if earlier:
            found += _stage_since(stage, earlier, passed_s)
    return found


def _stage_since(stage: StageMetrics, before: StageMetrics, passed_s: float) -> list[str]:
    busy_s = stage.busy_s - before.busy_s
    if busy_s < 0 or stage.positions < before.positions:
        return [f"stage {stage.stage} computed less than before"]
    if busy_s > passed_s + CLOCK_SLACK_S:
        return [f"stage {stage.stage} computed {busy_s:.1f} s in {passed_s:.1f} s"]
    return []


def _key(stage: StageMetrics) -> tuple[object, ...]:
    return (stage.pipeline, stage.epoch, stage.stage)
