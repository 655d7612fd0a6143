"""What Ollama's interface is asked, as far as it can be done here: unknown fields are passed over, others checked."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from orchestrator.client.question import seed_of
from orchestrator.gateway.errors import ApiError
from orchestrator.gateway.openai_requests import DEFAULT_MAX_TOKENS, MOST_MESSAGES, Fields, OfferedTool, Stop
from schemas import limits
from schemas.messages import ChatMessage, Grammar, Sampling, Tool, ToolCall


class Options(Fields):
    """How an answer is made; what is not said is as with Ollama. ``num_ctx`` is the plan's here, and passed over."""

    temperature: Annotated[float, Field(ge=0, le=100)] = 0.8
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] = 40
    top_p: Annotated[float, Field(ge=0, le=1)] = 0.9
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repeat_penalty: Annotated[float, Field(ge=0.1, le=10)] = 1.1
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    stop: Annotated[list[Stop], Field(max_length=limits.MAX_STOP_STRINGS)] = Field(default_factory=list)
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    num_predict: Annotated[int, Field(ge=-2, le=limits.MAX_ANSWER_TOKENS)] = -1

    @field_validator("stop", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """One text is a list of one."""
        return [value] if isinstance(value, str) else value or []

    def sampling(self) -> Sampling:
        """As the last stage is told."""
        return Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repeat_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=seed_of(self.seed),
        )

    @property
    def most_tokens(self) -> int:
        """Of an answer."""
        return self.num_predict if self.num_predict > 0 else DEFAULT_MAX_TOKENS


class FunctionCall(Fields):
    """A function that was called, with an object."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Call(Fields):
    """A call in an assistant's turn."""

    function: FunctionCall


class Turn(Fields):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    images: list[Any] | None = None
    tool_calls: list[Call] | None = None
    tool_name: str | None = None

    def turn(self) -> ChatMessage:
        """As the orchestrator is asked."""
        if self.images:
            raise ApiError(422, "messages.images: pictures can't be looked at here", field="messages.images")
        calls = [call.function for call in self.tool_calls or ()]
        return ChatMessage(
            role=self.role,
            content=self.content,
            tool_calls=tuple(
                ToolCall(name=call.name, arguments=json.dumps(call.arguments, ensure_ascii=False)) for call in calls
            ),
            name=self.tool_name,
        )


class Asked(Fields):
    """What both kinds of questions have. ``keep_alive`` is passed over: the fleet keeps its model."""

    model: str
    stream: bool = True
    options: Options = Field(default_factory=Options)
    think: bool | str | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None

    def check(self) -> None:
        """Refuse what would be wrong if it were passed over.

        Raises:
            ApiError: naming the field.
        """
        if self.think:
            raise ApiError(400, "think: the model does not show what it thinks: leave it out", field="think")

    def grammar(self) -> Grammar | None:
        """The form that the answer has to have."""
        if isinstance(self.format, dict):
            return Grammar(kind="json_schema", text=json.dumps(self.format, ensure_ascii=False))
        return Grammar(kind="json_object") if self.format else None


class ChatAsked(Asked):
    """``POST /api/chat``."""

    messages: Annotated[list[Turn], Field(max_length=MOST_MESSAGES)] = Field(default_factory=list)
    tools: Annotated[list[OfferedTool], Field(max_length=limits.MAX_TOOLS)] | None = None

    def offered(self) -> tuple[Tool, ...]:
        """The tools that the model is told of."""
        return tuple(tool.tool() for tool in self.tools or ())


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
