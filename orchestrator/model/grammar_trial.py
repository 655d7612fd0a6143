"""A program that tries whether a grammar can be compiled: what takes too long or too much memory ends here.

A grammar of a few characters can keep a machine busy for minutes, and the library that compiles it can't be stopped.
So each is compiled here first, for a vocabulary of single bytes, which takes milliseconds, and only then where answers
are made. stdin has the grammar in the library's own form, stdout what is wrong with it, or nothing.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from broker.child_process import our_environment

if TYPE_CHECKING:
    import llguidance

PROCESSOR_LIMIT_S = 5
"""With the start of the program, which takes a slow board half of it."""
TIME_LIMIT_S = 30.0
"""Others may compute, too: what can be compiled is not to be refused on a busy machine."""
_MEMORY_LIMIT_BYTES = 500_000_000
TOO_LARGE = "it takes too long or too much memory to prepare: make it simpler"


def fault_of(grammar: str) -> str:
    """What is wrong with a grammar, in the library's words; empty if it can be compiled."""
    command = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(
            command, input=grammar.encode(), capture_output=True, timeout=TIME_LIMIT_S, env=our_environment(),
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return TOO_LARGE
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else TOO_LARGE


class _Bytes:
    """A vocabulary of single bytes and an end."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([value]) for value in range(256)), b"</s>")
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def limits() -> llguidance.LLParserLimits:
    """What a grammar may take while it is compiled, and while an answer is made: a state has a kilobyte or two."""
    import llguidance

    return llguidance.LLParserLimits(max_lexer_states=50_000, verbose_errors=False)


def _limit() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT_BYTES, _MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_LIMIT_S, PROCESSOR_LIMIT_S))


def main() -> None:
    """Try the grammar on stdin."""
    _limit()
    import llguidance

    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()))
    grammar = sys.stdin.buffer.read().decode()
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits())
    if not matcher.is_error():
        matcher.compute_bitmask()
    sys.stdout.write(matcher.get_error())


if __name__ == "__main__":
    main()
