"""What is asked of the gateway and how it answers, as its OpenAPI description shows them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ledger.conversations import Label, Level
from ledger.records import TurnId
from ledger.roles import Voice
from serving.api.reward import Text

Message = Annotated[Text, Field(examples=["Is 7 an even number?"])]


class Body(BaseModel):
    """A request whose every field is known."""

    model_config = ConfigDict(extra="forbid")


class DialogueRequest(Body):
    """A question to all three voices."""

    message: Message
    generation: int | None = Field(None, ge=0, le=1_000_000, description="Default: the current generation.")
    conversation: TurnId | None = Field(None, description="Go on with a conversation; default: begin one.")
    max_tokens: int | None = Field(None, ge=1, le=1_000_000, description="Default: [text] answer_tokens.")
    temperature: float = Field(0.7, ge=0, le=2, allow_inf_nan=False, description="0: always the likeliest word.")
    seed: int | None = Field(None, ge=0, lt=1 << 31, description="Makes an answer repeatable.")


class GenerateRequest(DialogueRequest):
    """A question to one voice."""

    role: Voice = "dialectical"
    stream: bool = Field(False, description="Answer as server-sent events: start, token, turn, end, or error.")


class FeedbackRequest(Body):
    """What a user thinks of an answer; it takes the place of what was said of it before."""

    turn: TurnId
    valence: int | None = Field(None, ge=-2, le=2, strict=True, description="-2 bad to +2 good.", examples=[1])
    arousal: Level | None = Field(None, description="How stirring it is.")
    discrepancy: Level | None = Field(None, description="How far from what was expected.")
    prospect: Level | None = Field(None, description="Whether it looks ahead.")
    reflection: Level | None = Field(None, description="Whether it looks back.")
    broadcast: Level | None = Field(None, description="Whether one would tell others.")
    correction: str | None = Field(None, max_length=20_000, description="What should have been said.")


class FeedbackAnswer(Body):
    """The label as stored."""

    turn: str
    label: Label | None
    """None: the label was taken back."""


class ErrorAnswer(BaseModel):
    """Every error's form, OpenAI's."""

    error: dict[str, Any]


ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer, "description": text}
    for code, text in {
        400: "The request cannot be answered; the message says why.",
        401: "An API key is needed.",
        403: "Pages of this origin may not use this server.",
        404: "There is no such thing.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        421: "This server answers to names of this machine only.",
        422: "The request's shape is wrong.",
        429: "Too many requests; Retry-After says when to come again.",
        500: "The server failed; its log says where.",
        503: "The engine does not answer; it comes back by itself.",
    }.items()
}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Server-sent events."}
}
