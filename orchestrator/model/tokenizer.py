"""Text to token ids and back: the ``tokenizers`` library, the model's chat template, and decoding as tokens arrive."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.model.errors import BrokenModel, MissingDependency

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json",
    "generation_config.json", "genai_config.json", "config.json",
)  # fmt: skip
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def copy_tokenizer(folders: Iterable[Path], target: Path) -> None:
    """Copy the tokenizer's and the generation files into ``target``; of equal names the first folder's wins.

    Raises:
        BrokenModel: there is no ``tokenizer.json``.
    """
    target.mkdir(parents=True, exist_ok=True)
    places = list(folders)
    for name in FILES:
        found = next((p / name for p in places if (p / name).is_file()), None)
        if found is not None:
            shutil.copyfile(found, target / name)
    if not (target / "tokenizer.json").is_file():
        raise BrokenModel(f"{places[-1]} has no tokenizer.json: a model needs its (fast) tokenizer beside it")


class ModelTokenizer:
    """The tokenizer in a model's folder.

    Attributes:
        bos_id: the id that starts a text, None if the model has none.
        eos_ids: ids that end an answer.
        chat_template: the Jinja source, None for a model without one.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingDependency("the package tokenizers is missing; install linguabus[orchestrator]") from error
        path = folder / "tokenizer.json"
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise BrokenModel(f"{path} cannot be read: {error}") from error
        self._config = _read_json(folder / "tokenizer_config.json")
        generation = _read_json(folder / "generation_config.json")
        genai = _read_json(folder / "genai_config.json").get("model", {})
        model = _read_json(folder / "config.json")
        template = folder / "chat_template.jinja"
        self.chat_template = template.read_text("utf-8") if template.is_file() else self._config_template()
        self.bos_id = self._special("bos_token")
        if self.bos_id is None:
            self.bos_id = next((i for f in (generation, genai, model) for i in _ids(f.get("bos_token_id"))), None)
        eos = {i for f in (generation, genai, model) for i in _ids(f.get("eos_token_id"))}
        own = self._special("eos_token")
        self.eos_ids = frozenset(eos if own is None else eos | {own})

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of ``text``; ``special`` adds what the tokenizer puts around a text (usually a BOS)."""
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation, ready for the assistant's answer.

        Args:
            messages: ``{"role": "system" | "user" | "assistant", "content": text}`` in order.

        Raises:
            BrokenModel: the chat template refuses the messages or is not valid Jinja.
        """
        if self.chat_template is None:
            return self.encode("\n".join(m["content"] for m in messages))
        return self.encode(self.render_chat(messages), special=False)

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation as text by the model's chat template, up to where the answer begins."""
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def raise_exception(message: str) -> None:
            raise jinja2.TemplateError(message)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, **kw: json.dumps(value, ensure_ascii=False, **kw)
        environment.globals["raise_exception"] = raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        tokens = {k: _content(v) for k, v in self._config.items() if k.endswith("_token") and _content(v)}
        try:
            template = environment.from_string(self.chat_template or "")
            return template.render(messages=list(messages), add_generation_prompt=True, **tokens)
        except jinja2.TemplateError as error:
            raise BrokenModel(f"the model's chat template refuses this conversation: {error}") from error

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` without special tokens; bytes that are no UTF-8 become U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def stream(self) -> DecodeStream:
        """A decoder for one answer as its tokens arrive."""
        return DecodeStream(self)

    def _special(self, key: str) -> int | None:
        content = _content(self._config.get(key))
        return self._tokenizer.token_to_id(content) if content else None

    def _config_template(self) -> str | None:
        value = self._config.get("chat_template")
        if isinstance(value, list):  # named templates: the default one
            value = next((t.get("template") for t in value if t.get("name") == "default"), None)
        return value if isinstance(value, str) else None


class DecodeStream:
    """Text piece by piece: only whole characters, and the pieces joined equal ``decode`` of all ids.

    A character may take several tokens, and a token's text may depend on the one before it (leading spaces). So a
    short window of ids is decoded each time, beginning with ids already given out, and the known front is cut off.
    """

    def __init__(self, tokenizer: ModelTokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._pending = 0  # index into the window where ids begin that no finished text has covered
        self._given = 0  # characters of the window's text that are given out

    def push(self, token_id: int) -> str:
        """The text that ``token_id`` completes, often "" or one word."""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        whole = text.rstrip(REPLACEMENT)  # bytes at the end that are no character yet
        piece = whole[self._given :]
        self._given = max(self._given, len(whole))
        if piece and whole == text:
            self._window = self._window[self._pending :]
            self._pending = len(self._window)
            self._given = len(self._tokenizer.decode(self._window))
        return piece

    def finish(self) -> str:
        """What is left at the end of an answer; a character that stayed incomplete comes out as U+FFFD."""
        piece = self._tokenizer.decode(self._window)[self._given :]
        self._window, self._pending, self._given = [], 0, 0
        return piece


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise BrokenModel(f"{path} is not JSON: {error}") from error
    return value if isinstance(value, dict) else {}


def _content(token: Any) -> str | None:
    """A special token's text; configs hold it plain or as an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if type(v) is int]
