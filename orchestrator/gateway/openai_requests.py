"""What OpenAI's interface is asked, as far as it can be done here: unknown fields are passed over, others checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.client.question import seed_of
from orchestrator.gateway.errors import ApiError
from schemas import limits
from schemas.messages import ChatMessage, Grammar, Sampling, Tool, ToolCall

DEFAULT_MAX_TOKENS = 4096
"""An answer ends where the context does, in any case."""
MOST_MESSAGES = 10_000
MOST_ANSWERS = 8
Stop = Annotated[str, Field(min_length=1, max_length=limits.MAX_STOP_CHARACTERS)]


class Fields(BaseModel):
    """Of a request's body; fields that are not known are passed over."""

    model_config = ConfigDict(extra="ignore", strict=False)


TextType = Literal["text", "input_text", "output_text"]
_NO_TEXT = {
    "image_url": "pictures can't be looked at",
    "input_image": "pictures can't be looked at",
    "input_audio": "sound can't be listened to",
    "file": "files can't be opened",
    "input_file": "files can't be opened",
}


class TextPart(Fields):
    """A part of a message that is text; there are no others here."""

    type: TextType
    text: str


def _only_text(value: Any) -> Any:
    """Name a part that is no text: the model could not be told of it."""
    for number, part in enumerate(value if isinstance(value, list) else ()):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind not in get_args(TextType):
            why = _NO_TEXT.get(kind, "there are no parts of its type")
            raise PydanticCustomError("no_text", f"part {number} is no text, and {why} here: leave it out")
    return value


TextContent = Annotated[str | list[TextPart], BeforeValidator(_only_text)]
"""What was said, in one text or in parts."""


def joined(content: str | Sequence[TextPart]) -> str:
    """The whole text."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


class FunctionCall(Fields):
    """A function that was called, with the text of a JSON object."""

    name: str
    arguments: str = "{}"


class Call(Fields):
    """A call in an assistant's turn."""

    id: str | None = None
    function: FunctionCall


class Message(Fields):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: TextContent | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    def turn(self, place: str) -> ChatMessage:
        """As the orchestrator is asked; ``place`` is the message's in the request."""
        if self.content is None and not self.tool_calls:
            raise ApiError(422, f"{place}.content: Field required", code="invalid_value", field=f"{place}.content")
        return ChatMessage(
            role="system" if self.role == "developer" else self.role,
            content=joined(self.content or ""),
            tool_calls=tuple(
                ToolCall(name=call.function.name, arguments=call.function.arguments, id=call.id)
                for call in self.tool_calls or ()
            ),
            tool_call_id=self.tool_call_id,
            name=self.name,
        )


def tool_of(name: str, description: str | None, parameters: dict[str, Any] | None) -> Tool:
    """What the orchestrator is told of a function that may be called."""
    return Tool(name=name, description=description or "", parameters=json.dumps(parameters or {}, ensure_ascii=False))


class Function(Fields):
    """A function that may be called."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class OfferedTool(Fields):
    """A tool; there are none but functions."""

    type: Literal["function"] = "function"
    function: Function

    def tool(self) -> Tool:
        """As the orchestrator is told."""
        return tool_of(self.function.name, self.function.description, self.function.parameters)


class SchemaFormat(Fields):
    """A JSON schema, as OpenAI wraps it."""

    schema_: dict[str, Any] = Field(alias="schema")


FormType = Literal["text", "json_object", "json_schema"]


def grammar_of(kind: FormType, schema: dict[str, Any] | None) -> Grammar | None:
    """What the orchestrator is told of a form; ``schema``: where it has one, which has been checked."""
    if kind == "text":
        return None
    return Grammar(kind=kind, text=json.dumps(schema, ensure_ascii=False) if kind == "json_schema" else "")


class ResponseFormat(Fields):
    """The form that an answer has to have."""

    type: FormType
    json_schema: SchemaFormat | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema is missing")
        return self

    def grammar(self) -> Grammar | None:
        """As the orchestrator is asked."""
        return grammar_of(self.type, self.json_schema.schema_ if self.json_schema else None)


class StreamOptions(Fields):
    """What a stream has beside its pieces."""

    include_usage: bool = False


class SamplingFields(Fields):
    """What every question can be told about the choice of tokens."""

    model: str = "default"
    stream: bool = False
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[list[Stop], Field(max_length=limits.MAX_STOP_STRINGS)] | None = None
    patience_s: Annotated[float, Field(ge=0, le=limits.MAX_PATIENCE_S)] | None = Field(
        None, description="The question waits so long for what is missing; not one of OpenAI's fields."
    )

    @field_validator("stop", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """One text is a list of one."""
        return [value] if isinstance(value, str) else value

    def sampling(self) -> Sampling:
        """As the last stage is told. What is not said is as with OpenAI: temperature 1."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k or 0,
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            seed=seed_of(self.seed),
        )

    def common(self) -> dict[str, Any]:
        """The fields of a `Question` that they all have."""
        return {"sampling": self.sampling(), "stop": tuple(self.stop or ()), "patience_s": self.wait_s}

    @property
    def wait_s(self) -> float:
        """How long the question waits for what is missing."""
        return limits.DEFAULT_PATIENCE_S if self.patience_s is None else self.patience_s


class CompletionFields(SamplingFields):
    """What both kinds of completions have beside these."""

    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=limits.MAX_ANSWER_TOKENS)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = Field(
        None, description="Tokens can't be made likelier here: empty, or left out."
    )

    @property
    def answers(self) -> int:
        """How many are wanted."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Is a stream to end with the numbers of tokens?"""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(CompletionFields):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=limits.MAX_ANSWER_TOKENS)] | None = None
    tools: Annotated[list[OfferedTool], Field(max_length=limits.MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto"] | None = Field(
        None, description="Whether to offer the tools; a model can't be made to call one."
    )
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=limits.MAX_ALTERNATIVES)] | None = None

    @property
    def most_tokens(self) -> int:
        """Of an answer."""
        return self.max_completion_tokens or self.max_tokens or DEFAULT_MAX_TOKENS

    def turns(self) -> tuple[ChatMessage, ...]:
        """The conversation."""
        return tuple(message.turn(f"messages.{number}") for number, message in enumerate(self.messages))

    def offered(self) -> tuple[Tool, ...]:
        """The tools that the model is told of."""
        return () if self.tool_choice == "none" else tuple(tool.tool() for tool in self.tools or ())

    @property
    def alternatives(self) -> int | None:
        """How many likely tokens to tell beside each; None: no probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(CompletionFields):
    """``POST /v1/completions``: raw text goes on."""

    prompt: str
    max_tokens: Annotated[int, Field(ge=1, le=limits.MAX_ANSWER_TOKENS)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=limits.MAX_ALTERNATIVES)] | None = None
    echo: bool = False
    best_of: Annotated[int, Field(ge=1, le=1)] | None = Field(
        None, description="Only what is returned is computed here: 1, or left out."
    )

    @field_validator("prompt", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        """A list of one prompt is one."""
        return value[0] if isinstance(value, list) and len(value) == 1 else value

    @property
    def most_tokens(self) -> int:
        """Of an answer."""
        return self.max_tokens or DEFAULT_MAX_TOKENS
