"""Encodes text as token ids, such that nothing but a template's own markers becomes a control token.

A text is encoded as one piece, so ids are those of the whole wherever no marker was typed, at the seams between
template and message too. For this the tokenizer gets a second, secret spelling of each control token: a template's
markers are put into the text in that spelling, all others are passed over by ``encode_special_tokens``, and the ids of
the secret spellings are the tokens' own again afterwards.

That is not the end: a model's vocabulary may hold ``</s>`` or ``<0x0A>`` as a piece, and then it makes of the typed
letters what the tokenizer has just passed over. Where that happens the piece is taken apart, one letter and the rest.
"""

from __future__ import annotations

import re
import secrets
import threading
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.model.errors import BrokenModel

if TYPE_CHECKING:
    from tokenizers import AddedToken, Encoding, Token, Tokenizer

_NO_CHARACTER = "\U0010ffff"


class PromptEncoder:
    """Encodes prompts with a tokenizer, which gets more tokens and must be asked for ids through this class only.

    Attributes:
        hidden_ids: tokens that are no text of an answer.
    """

    def __init__(self, tokenizer: Tokenizer, control: Mapping[str, int], *, framing_ids: Collection[int]) -> None:
        """Add the secret spellings of the ``control`` tokens to the tokenizer.

        ``framing_ids``: of tokens that begin or end a text; they may not even stand for an unknown character.
        """
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._control = dict(control)
        self._lengths = sorted({len(text) for text in control}, reverse=True)
        self._beginning = re.compile(f"[{''.join(re.escape(text[0]) for text in control)}]" if control else "(?!)")
        byte_ids = {number for byte in range(256) if (number := tokenizer.token_to_id(f"<0x{byte:02X}>")) is not None}
        self._unknown_ids = {token.id for token in self._tokenize(_NO_CHARACTER)} - byte_ids
        self._stand_ins = (byte_ids | self._unknown_ids) - set(framing_ids)
        self._suspects = byte_ids | self._unknown_ids | set(control.values())
        added = tokenizer.get_added_tokens_decoder()
        self.hidden_ids = {number for number, token in added.items() if token.special}
        self._secret = self._add_secrets(added)
        self._true_ids = {
            number: control[text]
            for text, secret in self._secret.items()
            if (number := tokenizer.token_to_id(secret)) is not None
        }
        self.hidden_ids |= self._true_ids.keys()

    def vocabulary(self) -> dict[str, int]:
        """The tokens and ids that the tokenizer came with, added ones included."""
        secret = set(self._secret.values())
        known = self._tokenizer.get_vocab(with_added_tokens=True)
        return {text: number for text, number in known.items() if text not in secret}

    def _add_secrets(self, added: Mapping[int, AddedToken]) -> dict[str, str]:
        """Add the secret spellings, as tokens that match whatever ``encode_special_tokens`` says.

        All control tokens become special, so that ``encode_special_tokens`` holds for them.
        """
        from tokenizers import AddedToken

        key = secrets.token_hex(8)
        spellings = {text: f"\ue000{key}{number:x}\ue001" for text, number in self._control.items()}
        tokens = []
        for text, spelling in spellings.items():
            as_it_was = added.get(self._control[text]) or AddedToken(text, normalized=False)
            normalized = as_it_was.normalized and self._is_found(text)
            tokens.append(_copy(as_it_was, spelling, special=False, single_word=False, normalized=normalized))
        unmarked = [token for token in added.values() if token.content in spellings and not token.special]
        self._tokenizer.add_special_tokens([_copy(token, token.content, special=True) for token in unmarked])
        self._tokenizer.add_tokens(tokens)
        return spellings

    def _is_found(self, text: str) -> bool:
        """Does the tokenizer find this control token between letters?

        A token that it looks for in normalised text it may not find: some normalisers put something in front.
        """
        try:
            return self._control[text] in self._encoded(f"a{text}a", frame=False).ids
        except BrokenModel:
            return False

    def encode_raw(self, text: str, *, frame: bool) -> list[int]:
        """Ids of a text in which markers are control tokens; ``frame`` adds what the tokenizer puts around a text."""
        with self._lock:
            return list(self._encoded(text, frame=frame).ids)

    def encode(self, text: str, own: Iterable[tuple[int, int]] = (), *, frame: bool = False) -> list[int]:
        """Ids of a text in which nothing is a control token but markers that lie within one of the ranges ``own``.

        Raises:
            BrokenModel: the tokenizer can't encode it.
        """
        text = self._with_secrets(text, own)
        with self._lock:
            self._tokenizer.encode_special_tokens = True
            try:
                encoding = self._encoded(text, frame=frame)
            finally:
                self._tokenizer.encode_special_tokens = False
        return list(self._corrected(text, encoding))

    def is_touched(self, text: str, ranges: Iterable[tuple[int, int]]) -> bool:
        """Does a marker lie in one of these ranges, or reach into it?"""
        reach = self._lengths[0] - 1 if self._lengths else 0
        return any(
            begin < stop and end > start
            for start, stop in ranges
            for begin, end in self._markers(text, max(0, start - reach), min(len(text), stop + reach))
        )

    def _with_secrets(self, text: str, own: Iterable[tuple[int, int]]) -> str:
        parts, done = [], 0
        for start, stop in own:
            for begin, end in self._markers(text, start, stop):
                parts += [text[done:begin], self._secret[text[begin:end]]]
                done = end
        return "".join([*parts, text[done:]])

    def _markers(self, text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Places where control tokens are spelt in ``text[start:stop]``; of overlapping ones the leftmost, longest."""
        while found := self._beginning.search(text, start, stop):
            begin = found.start()
            lengths = (n for n in self._lengths if begin + n <= stop and text[begin : begin + n] in self._control)
            length = next(lengths, 0)
            if length:
                yield begin, begin + length
            start = begin + (length or 1)

    def _encoded(self, text: str, *, frame: bool) -> Encoding:
        try:
            return self._tokenizer.encode(text, add_special_tokens=frame)
        except Exception as error:  # the library raises plain Exception
            raise BrokenModel("the model's tokenizer can't encode this text: write it otherwise") from error

    def _corrected(self, text: str, encoding: Encoding) -> Iterable[int]:
        """The tokens' own ids for those of secret spellings, text for control tokens that the vocabulary has made."""
        ids = encoding.ids
        if self._suspects.isdisjoint(ids):
            return (self._true_ids.get(number, number) for number in ids)
        offsets, framing = encoding.offsets, encoding.special_tokens_mask
        corrected: list[int] = []
        for place, number in enumerate(ids):
            if number in self._suspects and not framing[place]:
                start, stop = offsets[place]
                corrected += self._as_text(number, text[start:stop])
            else:
                corrected.append(self._true_ids.get(number, number))
        return corrected

    def _as_text(self, number: int, surface: str) -> list[int]:
        """Ids for the piece of text that the token ``number`` was made of."""
        spelling = self._tokenizer.id_to_token(number) or ""
        if unicodedata.normalize("NFKC", surface).strip(" ▁") != spelling:
            if number in self._stand_ins:
                return [number]  # for a character that has no token of its own
            if number in self._unknown_ids:
                return []
        return [piece for part in (spelling[:1], spelling[1:]) if spelling[1:] for piece in self._text_ids(part)]

    def _text_ids(self, text: str) -> list[int]:
        found: list[int] = []
        for token in self._tokenize(text):
            surface = text.encode()[slice(*token.offsets)].decode(errors="replace")
            found += self._as_text(token.id, surface) if token.id in self._suspects else [token.id]
        return found

    def _tokenize(self, text: str) -> Sequence[Token]:
        try:
            tokens: Sequence[Token] = self._tokenizer.model.tokenize(text)
        except Exception:  # the library raises plain Exception: no token, and none for the unknown
            return ()
        return tokens


def _copy(token: AddedToken, content: str, **changes: bool) -> AddedToken:
    from tokenizers import AddedToken

    flags = {name: getattr(token, name) for name in ("lstrip", "rstrip", "single_word", "normalized", "special")}
    return AddedToken(content, **(flags | changes))
