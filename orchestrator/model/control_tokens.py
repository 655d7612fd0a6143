"""Which of a tokenizer's tokens are control tokens: those that frame turns, end answers, or mark something in a prompt.

What people write never becomes one of them. Tokenizers say so with the flag ``special``, but not of all: conversions
lose it, and tokens for thoughts or tools go without it because answers are to show them. Other added tokens (runs of
spaces, HTML tags, words) are text that a tokenizer keeps whole, and stay so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MARKER = re.compile(r"<[^<>\s]*\w[^<>\s]*>|\[/?[A-Z][A-Z0-9_]*\]|\[(control|multimodal)_?\w*\]")
_HTML = re.compile(
    "</?(a|b|blockquote|body|br|caption|code|dd|del|div|dl|dt|em|h[1-6]|head|hr|html|i|img|ins|kbd|li|ol|p|pre|q|s|small"
    "|span|strong|sub|summary|sup|table|tbody|td|tfoot|th|thead|title|tr|u|ul)>"
)


def control_tokens(
    tokenizer: Tokenizer, *, named: Iterable[str], ids: Iterable[int], template: str | None
) -> dict[str, int]:
    """Control tokens and their ids.

    Args:
        named: texts of tokens that the model's configuration gives a role (bos, eos, ...).
        ids: of tokens that begin a text or end an answer.
        template: the chat template; what it writes as a marker is one.
    """
    found: dict[str, int] = {}
    for number, token in tokenizer.get_added_tokens_decoder().items():
        if token.special or _is_marker(token.content, template or ""):
            found[token.content] = number
    for text in named:
        known_id = tokenizer.token_to_id(text)
        if known_id is not None:
            found[text] = known_id
    for number in ids:
        spelling = tokenizer.id_to_token(number)
        if spelling:
            found[spelling] = number
    return found


def _is_marker(text: str, template: str) -> bool:
    if any(letter.isalnum() for letter in text) and not all(letter.isalnum() or letter in " _▁" for letter in text):
        return text in template or bool(_MARKER.fullmatch(text) and not _HTML.fullmatch(text))
    return False


def named_tokens(*configurations: Mapping[str, Any]) -> set[str]:
    """Texts of the special tokens that tokenizer configurations name."""
    found: set[str] = set()
    for configuration in configurations:
        for key, value in configuration.items():
            if key.endswith("_token"):
                found.add(token_text(value) or "")
            elif key in ("additional_special_tokens", "extra_special_tokens"):
                values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
                found |= {token_text(item) or "" for item in values}
    return found - {""}


def token_text(token: Any) -> str | None:
    """A special token's text; configurations hold it plain or as an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
