"""What ``POST /v1/responses`` is asked: a conversation as items, of which those are taken that are text or calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from orchestrator.gateway.errors import ApiError
from orchestrator.gateway.openai_requests import (
    DEFAULT_MAX_TOKENS,
    MOST_MESSAGES,
    Fields,
    FormType,
    SamplingFields,
    TextContent,
    grammar_of,
    joined,
    tool_of,
)
from schemas import limits
from schemas.messages import ChatMessage, Grammar, Tool, ToolCall

LOGPROBS = "message.output_text.logprobs"
"""What ``include`` has where probabilities are wanted."""
_STORED = ("previous_response_id", "conversation", "prompt")
"""Fields that refer to what would have been stored."""


class MessageItem(Fields):
    """One turn of a conversation."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: TextContent


class CallItem(Fields):
    """A call of a function that the model has asked for."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str = "{}"


class OutputItem(Fields):
    """What a function has returned."""

    type: Literal["function_call_output"]
    call_id: str
    output: TextContent


def _kind(item: Any) -> Any:
    """An item without a type is a message."""
    return item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[OutputItem, Tag("function_call_output")],
    Discriminator(_kind),
]


class FunctionTool(Fields):
    """A function that may be called; there are no other tools here."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def tool(self) -> Tool:
        """As the orchestrator is told."""
        return tool_of(self.name, self.description, self.parameters)


class TextFormat(Fields):
    """The form that the text has to have."""

    type: FormType = "text"
    name: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")

    @model_validator(mode="after")
    def _has_schema(self) -> Self:
        if self.type == "json_schema" and self.schema_ is None:
            raise ValueError("schema is missing")
        return self

    def grammar(self) -> Grammar | None:
        """As the orchestrator is asked."""
        return grammar_of(self.type, self.schema_)

    def shown(self) -> dict[str, Any]:
        """As a response repeats it."""
        if self.type != "json_schema":
            return {"type": self.type}
        return {"type": self.type, "name": self.name or "answer", "schema": self.schema_, "strict": True}


class TextOptions(Fields):
    """What is wanted of the text."""

    format: TextFormat = Field(default_factory=TextFormat)


class ResponseRequest(SamplingFields):
    """``POST /v1/responses``."""

    input: str | Annotated[list[Item], Field(min_length=1, max_length=MOST_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=limits.MAX_ANSWER_TOKENS)] | None = None
    text: TextOptions | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=limits.MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto"] | None = Field(
        None, description="Whether to offer the tools; a model can't be made to call one."
    )
    include: list[str] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=limits.MAX_ALTERNATIVES)] | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    truncation: Literal["disabled"] | None = Field(None, description="Nothing of a conversation is left out.")
    previous_response_id: str | None = Field(None, description="Refused: nothing is stored.")
    conversation: Any = Field(None, description="Refused: nothing is stored.")
    prompt: Any = Field(None, description="Refused: nothing is stored.")
    background: bool | None = Field(None, description="True is refused: nothing is stored.")
    store: bool | None = Field(None, description="Nothing is stored, whatever it says.")

    def check(self) -> None:
        """Refuse what refers to something stored, and would be wrong if it were passed over.

        Raises:
            ApiError: naming the field.
        """
        for field in _STORED:
            if getattr(self, field) is not None:
                said = f"{field}: nothing is stored here: send all of the conversation as input"
                raise ApiError(422, said, code="unsupported_parameter", field=field)
        if self.background:
            said = "background: nothing is stored here: leave it out, and read the answer as it comes"
            raise ApiError(422, said, code="unsupported_parameter", field="background")

    @property
    def most_tokens(self) -> int:
        """Of the answer."""
        return self.max_output_tokens or DEFAULT_MAX_TOKENS

    @property
    def alternatives(self) -> int | None:
        """How many likely tokens to tell beside each; None: no probabilities at all."""
        wanted = LOGPROBS in (self.include or ()) or self.top_logprobs
        return (self.top_logprobs or 0) if wanted else None

    def grammar(self) -> Grammar | None:
        """The form that the text has to have."""
        return self.text.format.grammar() if self.text else None

    def offered(self) -> tuple[Tool, ...]:
        """The tools that the model is told of."""
        return () if self.tool_choice == "none" else tuple(tool.tool() for tool in self.tools or ())

    def turns(self) -> tuple[ChatMessage, ...]:
        """The conversation: calls belong to the assistant's turn in front of them.

        Raises:
            ApiError: an output is of no call.
        """
        items = [MessageItem(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        turns: list[ChatMessage] = []
        if self.instructions:
            turns.append(ChatMessage(role="system", content=self.instructions))
        functions: dict[str, str] = {}
        for number, item in enumerate(items):
            match item:
                case MessageItem():
                    role = "system" if item.role == "developer" else item.role
                    turns.append(ChatMessage(role=role, content=joined(item.content)))
                case CallItem():
                    functions[item.call_id] = item.name
                    if not turns or turns[-1].role != "assistant":
                        turns.append(ChatMessage(role="assistant", content=""))
                    call = ToolCall(name=item.name, arguments=item.arguments, id=item.call_id)
                    turns[-1] = replace(turns[-1], tool_calls=(*turns[-1].tool_calls, call))
                case OutputItem():
                    if item.call_id not in functions:
                        place = f"input.{number}.call_id"
                        raise ApiError(
                            422, f"{place}: the output of a call that is not there", code="invalid_value", field=place
                        )
                    turns.append(
                        ChatMessage(
                            role="tool",
                            content=joined(item.output),
                            tool_call_id=item.call_id,
                            name=functions[item.call_id],
                        )
                    )
        return tuple(turns)

    def shown(self, model: str) -> dict[str, Any]:
        """What a response repeats of it."""
        sampling = self.sampling()
        return {
            "model": model,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_logprobs": self.top_logprobs or 0,
            "text": {"format": (self.text or TextOptions()).format.shown()},
            "tool_choice": self.tool_choice or "auto",
            "tools": [tool.model_dump() | {"strict": bool(tool.strict)} for tool in self.tools or ()],
            "truncation": "disabled",
        }
