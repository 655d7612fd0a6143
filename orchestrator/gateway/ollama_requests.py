"""What Ollama's interface is asked, as far as it can be done here: unknown fields are passed over, others checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.gateway.errors import ApiError
from orchestrator.gateway.openai_requests import DEFAULT_MAX_TOKENS, MOST_MESSAGES, Fields
from orchestrator.gateway.question import seed_of
from schemas.limits import MAX_ANSWER_TOKENS
from schemas.messages import ChatMessage, Sampling


class Options(Fields):
    """How an answer is made; what is not said is as with Ollama. ``num_ctx`` is the plan's here, and passed over."""

    temperature: Annotated[float, Field(ge=0, le=100)] = 0.8
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] = 40
    top_p: Annotated[float, Field(ge=0, le=1)] = 0.9
    repeat_penalty: Annotated[float, Field(ge=0.1, le=10)] = 1.1
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    num_predict: Annotated[int, Field(ge=-2, le=MAX_ANSWER_TOKENS)] = -1

    def sampling(self) -> Sampling:
        """As the last stage is told."""
        return Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            repetition_penalty=self.repeat_penalty,
            seed=seed_of(self.seed),
        )

    @property
    def most_tokens(self) -> int:
        """Of an answer."""
        return self.num_predict if self.num_predict > 0 else DEFAULT_MAX_TOKENS


class Turn(Fields):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str = ""
    images: list[Any] | None = None

    def turn(self) -> ChatMessage:
        """As the orchestrator is asked."""
        if self.images:
            raise ApiError(422, "messages.images: pictures can't be looked at here", field="messages.images")
        return ChatMessage(role=self.role, content=self.content)


class Asked(Fields):
    """What both kinds of questions have. ``keep_alive`` is passed over: the fleet keeps its model."""

    model: str
    stream: bool = True
    options: Options = Field(default_factory=Options)
    think: bool | str | None = None
    format: Any = None

    def check(self) -> None:
        """Refuse what would be wrong if it were passed over.

        Raises:
            ApiError: naming the field.
        """
        if self.think:
            raise ApiError(400, "think: the model does not show what it thinks: leave it out", field="think")
        if self.format not in (None, ""):
            raise ApiError(422, "format: answers of a given form are not made yet: leave it out", field="format")


class ChatAsked(Asked):
    """``POST /api/chat``."""

    messages: Annotated[list[Turn], Field(max_length=MOST_MESSAGES)] = Field(default_factory=list)
    tools: list[Any] | None = None

    def check(self) -> None:
        """Refuse what would be wrong if it were passed over."""
        super().check()
        if self.tools:
            raise ApiError(400, f"tools: {self.model} does not support tools", field="tools")


class GenerateAsked(Asked):
    """``POST /api/generate``."""

    prompt: str = ""
    system: str | None = None
    raw: bool = False
    suffix: str | None = None
    images: list[Any] | None = None

    def check(self) -> None:
        """Refuse what would be wrong if it were passed over."""
        super().check()
        if self.suffix:
            raise ApiError(400, f"suffix: {self.model} does not support insert", field="suffix")
        if self.images:
            raise ApiError(422, "images: pictures can't be looked at here", field="images")

    def turns(self) -> tuple[ChatMessage, ...]:
        """The prompt as a conversation; empty where it is raw."""
        if self.raw:
            return ()
        system = [ChatMessage(role="system", content=self.system)] if self.system else []
        return (*system, ChatMessage(role="user", content=self.prompt))


class ModelAsked(Fields):
    """``POST /api/show`` and ``/api/pull``, by the name of before or of now."""

    model: str = ""
    name: str = ""
    stream: bool = True

    @property
    def wanted(self) -> str:
        """The model's name."""
        return self.model or self.name
