"""Plays schedules of faults in simulated time, from the command line."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from tests.faults.schedule import HOLD_TODAY, SHAPES, Kind, make_schedule
from tests.support.simulated_fleet import play


def main() -> None:
    """Print and play schedules."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the schedule to play")
    parser.add_argument("--count", type=int, default=1, help="how many, from this seed on")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="short")
    parser.add_argument("--kinds", help="of these kinds alone, with commas")
    parser.add_argument("--forgetful", action="store_true", help="the broker loses what is retained when it is killed")
    parser.add_argument("--log", action="store_true", help="print what the orchestrator logs, too")
    options = parser.parse_args()
    kinds = {Kind[name.strip().upper()] for name in options.kinds.split(",")} if options.kinds else HOLD_TODAY
    logging.basicConfig(level=logging.INFO if options.log else logging.CRITICAL, format="%(message)s")
    lost = 0
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(options.seed, options.seed + options.count):
            schedule = make_schedule(seed, SHAPES[options.shape], kinds)
            report = play(Path(temporary) / str(seed), schedule, retains=not options.forgetful)
            if report.wrong or options.count == 1:
                print(report, flush=True)
            lost += bool(report.wrong)
    print(f"{options.count - lost} of {options.count} schedules lost nothing")
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
