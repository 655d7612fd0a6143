"""Text to token ids and back: the ``tokenizers`` library, the model's chat template, and decoding as tokens arrive."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.model.chat_template import ChatTemplate
from orchestrator.model.control_tokens import control_tokens, named_tokens, token_text
from orchestrator.model.errors import BrokenModel, BrokenTemplate, MissingDependency
from orchestrator.model.json_file import read_optional
from orchestrator.model.prompt_encoder import PromptEncoder
from orchestrator.text.tool_calls import takes_tools, tool_format
from schemas.messages import ToolFormat

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json", "special_tokens_map.json",
    "generation_config.json", "genai_config.json", "config.json",
)  # fmt: skip
TOKENIZER_FILE = "tokenizer.json"
SOURCES = ("tokenizer.json", "*.model", "vocab.*", "tekken.json", "*.tiktoken")
"""What transformers makes a tokenizer of."""
_KEPT_TEXTS = 10_000
"""Of single tokens."""
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


def require_tokenizer(folder: Path) -> None:
    """Check, before anything is converted, that a checkpoint has a tokenizer that transformers can read.

    Raises:
        BrokenModel: there is none.
    """
    if not any(path.is_file() for pattern in SOURCES for path in folder.glob(pattern)):
        raise BrokenModel(f"{folder} has no tokenizer.json: download the tokenizer's files too")


class ModelTokenizer:
    """The tokenizer in a model's folder.

    What people write is text: in a conversation only the markers that the chat template itself writes become control
    tokens, whatever stands in the messages (contents, names, roles that are none). The template's literals are told
    from people's text character by character, through all that templates usually do with strings
    (`orchestrator.model.template_text`). Where a template does something else, and a marker lies in what comes of it,
    the conversation is rendered again with people's text out of the template's sight, so that it comes out as it went
    in; if that fails, the marker is text.

    Attributes:
        bos_id: the id that starts a text, None if the model has none.
        eos_ids: ids that end an answer.
        chat_template: the Jinja source, None for a model without one.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingDependency("a tokenizer can't be read", "orchestrator") from error
        path = folder / "tokenizer.json"
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise BrokenModel(f"{path} cannot be read: {error}") from error
        self.vocab_size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        special = read_optional(folder / "special_tokens_map.json")
        self._config = special | read_optional(folder / "tokenizer_config.json")
        generation = read_optional(folder / "generation_config.json")
        genai = _object(read_optional(folder / "genai_config.json").get("model"))
        model = read_optional(folder / "config.json")
        stated = (generation, genai, model, _object(model.get("text_config")))
        self.bos_id = self._special("bos_token")
        if self.bos_id is None:
            self.bos_id = next((i for f in stated for i in _ids(f.get("bos_token_id"))), None)
        eos = {i for f in stated for i in _ids(f.get("eos_token_id"))}
        own = self._special("eos_token")
        self.eos_ids = frozenset(eos if own is None else eos | {own})
        self.chat_template = self._find_template(folder)
        for_tools = self._find_template(folder, "tool_use")
        self._template = self._as_template(self.chat_template)
        self._tool_template = self._template if for_tools is None else self._as_template(for_tools)
        self._tool_source = self.chat_template if for_tools is None else for_tools
        framing = self.eos_ids if self.bos_id is None else self.eos_ids | {self.bos_id}
        control = control_tokens(
            self._tokenizer,
            named=named_tokens(special, self._config),
            ids=framing,
            template="\n".join({self.chat_template or "", self._tool_source or ""}),
        )
        self._encoder = PromptEncoder(self._tokenizer, control, framing_ids=framing)
        self._token_text = functools.lru_cache(maxsize=_KEPT_TEXTS)(self._text_behind_a_letter)

    def has_tokens_of(self, other: ModelTokenizer) -> bool:
        """Has the other one the same ids for the same tokens, added ones included?"""
        return self._encoder.vocabulary() == other._encoder.vocabulary()

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of raw ``text``, in which markers are control tokens; ``special`` adds what the tokenizer puts around a
        text (usually a BOS).

        Raises:
            BrokenModel: the tokenizer can't encode it.
        """
        return self._encoder.encode_raw(_unicode(text), frame=special)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Ids of a conversation, ready for the assistant's answer.

        Args:
            messages: ``{"role": "system" | "user" | "assistant" | "tool", "content": text, ...}`` in order.
            tools: functions that may be called, as transformers takes them.

        Raises:
            BrokenTemplate: the chat template refuses the messages, takes no tools, or does not work.
            BrokenModel: the tokenizer can't encode them.
        """
        messages, tools = _unicode(messages), _unicode(tools)
        speaks_of_tools = tools or any(m.get("tool_calls") or m["role"] == "tool" for m in messages)
        template = self._tool_template if speaks_of_tools else self._template
        if speaks_of_tools and not takes_tools(self._tool_source):
            raise BrokenTemplate("the model's chat template takes no tools", advice="ask without, or use another model")
        if template is None:
            return self._encoder.encode("\n".join(m["content"] for m in messages), frame=True)
        chat = template.render(messages, tools)
        if self._encoder.is_touched(chat.text, chat.unknown):
            with contextlib.suppress(BrokenTemplate):
                chat = template.render(messages, tools, opaque=True)
        return self._encoder.encode(chat.text, chat.own)

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation as text by the model's chat template, up to where the answer begins; "" without one."""
        return self._template.render(_unicode(messages)).text if self._template else ""

    @property
    def tool_format(self) -> ToolFormat | None:
        """How the model writes tool calls, by its chat template; None where that is not known."""
        return tool_format(self._tool_source)

    def check_template(self) -> str:
        """Why the chat template makes no prompt of a plain question; "" if it does, or if there is no template."""
        question = {"role": "user", "content": "Hello"}
        problem = ""
        for messages in ([question], [{"role": "system", "content": "Be brief."}, question]):
            try:
                self.render_chat(messages)
            except BrokenTemplate as error:
                problem = problem or str(error)
            else:
                return ""
        return problem

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` without special tokens; bytes that are no UTF-8 become U+FFFD."""
        shown = [number for number in ids if number not in self._encoder.hidden_ids]
        return self._tokenizer.decode(shown, skip_special_tokens=False)

    def token_text(self, token_id: int) -> str:
        """The text of one token by itself, as it is in the middle of a text; "" for a special one."""
        return self._token_text(token_id)

    def _text_behind_a_letter(self, token_id: int) -> str:
        letter = self._letter
        return self.decode([*letter, token_id]).removeprefix(self.decode(letter))

    @functools.cached_property
    def _letter(self) -> Sequence[int]:
        """What single tokens are decoded behind: some tokenizers take away the space that a text begins with."""
        with contextlib.suppress(BrokenModel):
            return self._encoder.encode("a")
        return ()

    def stream(self) -> DecodeStream:
        """A decoder for one answer as its tokens arrive."""
        return DecodeStream(self)

    def _special(self, key: str) -> int | None:
        content = token_text(self._config.get(key))
        return self._tokenizer.token_to_id(content) if content else None

    def _find_template(self, folder: Path, name: str = "default") -> str | None:
        """The source of a template; a model may have another one, "tool_use", for conversations with tools."""
        path = folder / "chat_template.jinja"
        if path.is_file() and name == "default":
            return path.read_text("utf-8", errors="replace")
        found = (f.get("chat_template") for f in (self._config, read_optional(folder / "chat_template.json")))
        return next((text for value in found if (text := _named_template(value, name)) is not None), None)

    def _as_template(self, source: str | None) -> ChatTemplate | None:
        if source is None:
            return None
        tokens = {k: text for k, v in self._config.items() if k.endswith("_token") and (text := token_text(v))}
        return ChatTemplate(source, tokens)


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


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _named_template(value: Any, name: str) -> str | None:
    """The template of a name in what a configuration has; a single one is the default."""
    if isinstance(value, list):  # named templates
        value = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
    if isinstance(value, dict):
        value = value.get(name)
    elif name != "default":
        return None
    return value if isinstance(value, str) else None


def _unicode(value: Any) -> Any:
    """The same value with U+FFFD for halves of surrogate pairs, which are no text, in all its strings."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, Mapping):
        return {key: _unicode(member) for key, member in value.items()}
    if isinstance(value, Sequence):
        return [_unicode(item) for item in value]
    return value


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if type(v) is int and v >= 0]
