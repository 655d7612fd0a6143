"""What OpenAI's interface is asked, as far as it can be done here: unknown fields are passed over, others checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from orchestrator.gateway.question import seed_of
from schemas.limits import DEFAULT_PATIENCE_S, MAX_ANSWER_TOKENS, MAX_PATIENCE_S
from schemas.messages import ChatMessage, Sampling

DEFAULT_MAX_TOKENS = 4096
"""An answer ends where the context does, in any case."""
MOST_MESSAGES = 10_000
MOST_ANSWERS = 8


class Fields(BaseModel):
    """Of a request's body; fields that are not known are passed over."""

    model_config = ConfigDict(extra="ignore", strict=False)


class TextPart(Fields):
    """A part of a message that is text; there are no others here."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class Message(Fields):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def turn(self) -> ChatMessage:
        """As the orchestrator is asked."""
        role = "system" if self.role == "developer" else self.role
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return ChatMessage(role=role, content=text)


class StreamOptions(Fields):
    """What a stream has beside its pieces."""

    include_usage: bool = False


class SamplingFields(Fields):
    """What both kinds of completions can be told about the choice of tokens, and how they are told of it."""

    model: str = "default"
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_ANSWER_TOKENS)] | None = None
    patience_s: Annotated[float, Field(ge=0, le=MAX_PATIENCE_S)] | None = Field(
        None, description="The question waits so long for what is missing; not one of OpenAI's fields."
    )

    def sampling(self) -> Sampling:
        """As the last stage is told. What is not said is as with OpenAI: temperature 1."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k or 0,
            repetition_penalty=self.repetition_penalty or 1.0,
            seed=seed_of(self.seed),
        )

    @property
    def answers(self) -> int:
        """How many are wanted."""
        return self.n or 1

    @property
    def patience(self) -> float:
        """How long the question waits for what is missing, in seconds."""
        return DEFAULT_PATIENCE_S if self.patience_s is None else self.patience_s

    @property
    def wants_usage(self) -> bool:
        """Is a stream to end with the numbers of tokens?"""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(SamplingFields):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_ANSWER_TOKENS)] | None = None

    @property
    def most_tokens(self) -> int:
        """Of an answer."""
        return self.max_completion_tokens or self.max_tokens or DEFAULT_MAX_TOKENS


class CompletionRequest(SamplingFields):
    """``POST /v1/completions``: raw text goes on."""

    prompt: str
    max_tokens: Annotated[int, Field(ge=1, le=MAX_ANSWER_TOKENS)] | None = 16
    echo: bool = False

    @field_validator("prompt", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        """A list of one prompt is one."""
        return value[0] if isinstance(value, list) and len(value) == 1 else value

    @property
    def most_tokens(self) -> int:
        """Of an answer."""
        return self.max_tokens or DEFAULT_MAX_TOKENS
