"""Errors over HTTP: every one in OpenAI's form, with a sentence that says what to do."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Send

from ledger.errors import LunaError

logger = logging.getLogger(__name__)


class Refused(Exception):
    """A request that is answered with an error. Travels between processes, so its arguments are all it has."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(status, message, dict(headers or {}))
        self.status, self.message, self.headers = status, message, dict(headers or {})

    def __str__(self) -> str:
        return self.message


def error_body(refusal: Refused) -> dict[str, Any]:
    """The JSON of an error."""
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    return {"error": {"message": refusal.message, "type": kind, "param": None, "code": refusal.status}}


async def send_error(send: Send, refusal: Refused) -> None:
    """Answer an HTTP request with an error, from outside any framework."""
    payload = json.dumps(error_body(refusal)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(payload)), **refusal.headers}
    pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": payload})


def unforeseen(error: Exception) -> Refused:
    """The answer to a bug. The text of its error can hold paths; it belongs in the log."""
    return Refused(500, f"this server failed ({type(error).__name__}); its log says where.")


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of an application in OpenAI's form, an unforeseen one too."""

    def answered(refusal: Refused) -> JSONResponse:
        return JSONResponse(error_body(refusal), refusal.status, headers=refusal.headers)

    @app.exception_handler(Refused)
    def refused(_: Request, error: Exception) -> JSONResponse:
        return answered(cast(Refused, error))

    @app.exception_handler(LunaError)
    def users_error(_: Request, error: Exception) -> JSONResponse:
        return answered(Refused(503, str(error)))

    @app.exception_handler(HTTPException)
    def no_such_path(request: Request, error: Exception) -> JSONResponse:
        error = cast(HTTPException, error)
        return answered(
            Refused(error.status_code, f"{request.method} {request.url.path}: {error.detail}.", error.headers)
        )

    @app.exception_handler(RequestValidationError)
    def wrong_shape(_: Request, error: Exception) -> JSONResponse:
        # What was sent is not repeated: it may be no valid text at all.
        mistakes = (
            f"{'.'.join(str(part) for part in mistake['loc'])}: {mistake['msg']}"
            for mistake in cast(RequestValidationError, error).errors()
        )
        return answered(Refused(422, "; ".join(mistakes).encode("utf-8", "replace").decode() + "."))

    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed: %r", request.method, request.url.path, error)  # Starlette logs its traceback
        return answered(unforeseen(error))
