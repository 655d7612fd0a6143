"""Limits of the operating system on this process, and its refusals in words that say what to do next."""

from __future__ import annotations

import errno
import sys

from schemas.errors import LinguabusError

LEAST_FILES, ENOUGH_FILES = 24, 128
"""Open files and connections without which no part works, and with which every part works with many peers."""
_RAISED_FILES = 4096
_RAISE = "run `ulimit -n 4096` before"

_ADVICE = {
    errno.EMFILE: _RAISE,
    errno.ENFILE: "end other programs",
    errno.ENOSPC: "make room there, or give another folder with --home",
    errno.EDQUOT: "make room there, or give another folder with --home",
    errno.ENOTDIR: "give another folder with --home",
    errno.EACCES: "give a folder you may write to with --home",
    errno.EPERM: "give a folder you may write to with --home",
    errno.EROFS: "give a folder you may write to with --home",
    errno.EAGAIN: "end other programs of yours",
    errno.ENOMEM: "end other programs",
}


class TooFewFiles(LinguabusError):
    """This process may not open as many files as it needs."""


def describe(error: OSError) -> str:
    """An OS error in one line: what was refused and, for cases that users come across, what to do next."""
    what = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        what = f"{error.filename}: {what}"
    advice = _ADVICE.get(error.errno or 0)
    return f"{what}; {advice}" if advice else what


def allow_many_files() -> str | None:
    """Let this process open as many files as it needs. Where few are allowed, returns a line for whoever started it.

    Raises:
        TooFewFiles: so few are allowed that the process would not work.
    """
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    if soft == endless or soft >= _RAISED_FILES:
        return None
    allowed = _RAISED_FILES if hard == endless else min(hard, _RAISED_FILES)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):  # macOS has a limit beyond the hard one
        allowed = soft
    said = f"this process may have {allowed} files and connections open"
    if allowed < LEAST_FILES:
        raise TooFewFiles(f"{said}, and needs {LEAST_FILES}: {_RAISE}")
    return None if allowed >= ENOUGH_FILES else f"{said}, too few for many peers: {_RAISE}"


def files_allowed() -> int:
    """How many files and connections this process may have open."""
    if sys.platform == "win32":
        return _RAISED_FILES
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
