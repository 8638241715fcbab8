"""The routes of the control door and its table of HTTP answers to errors."""

from __future__ import annotations

import logging
import os

import trio
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from aliasfs import errors, wire
from mountd.control.backend import Backend

log = logging.getLogger(__name__)

HTTP_STATUS: dict[type[errors.AliasfsError], int] = {
    # RFC 9110; a subclass without a row of its own takes its parent's.
    errors.AliasfsError: 500,
    errors.NotFound: 404,
    errors.NoAttribute: 404,
    errors.AlreadyExists: 409,
    errors.NotADirectory: 409,
    errors.IsADirectory: 409,
    errors.NotALink: 409,
    errors.InvalidName: 400,
    errors.NameTooLong: 400,
    errors.AccessDenied: 403,
    errors.ReadOnly: 403,
    errors.NotSupported: 501,
    errors.OutOfSpace: 507,
    errors.StoreError: 502,
    errors.StaleObject: 409,
    errors.StoreTimeout: 504,
    errors.StoreUnavailable: 503,
    # A configuration file that cannot be taken up: the state of the server, not the request, is wrong.
    errors.ConfigError: 409,
    errors.MountError: 409,
    errors.DaemonUnreachable: 503,
}

JSON_LINES = "application/x-ndjson"
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def http_status(error: errors.AliasfsError) -> int:
    """Return the status code for *error*: that of its nearest class in HTTP_STATUS."""
    return next(HTTP_STATUS[cls] for cls in type(error).__mro__ if cls in HTTP_STATUS)


def control_app(backend: Backend) -> Starlette:
    """Return the ASGI application that puts *backend* on HTTP."""
    door = _Door(backend)
    return Starlette(
        routes=[
            Route("/v1/health", door.health),
            Route("/v1/status", door.status),
            Route("/v1/reload", door.reload, methods=["POST"]),
            Route("/v1/stop", door.stop, methods=["POST"]),
            Route("/v1/cache", door.cache),
            Route("/v1/cache/evict", door.cache_evict, methods=["POST"]),
            Route("/v1/cache/verify", door.cache_verify, methods=["POST"]),
            Route("/metrics", door.metrics),
        ],
        exception_handlers={errors.AliasfsError: _answer_error, Exception: _answer_bug},
    )


class _Door:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def health(self, _: Request) -> Response:
        return _json(wire.HealthAnswer(pid=os.getpid()))

    async def status(self, _: Request) -> Response:
        return _json(self._backend.status())

    async def reload(self, _: Request) -> Response:
        return _json(wire.ReloadReport(changes=await self._backend.reload()))

    async def stop(self, _: Request) -> Response:
        async def stop_when_answered() -> None:
            self._backend.stop()

        return _json(wire.StopReport(pid=os.getpid()), background=BackgroundTask(stop_when_answered))

    async def cache(self, _: Request) -> Response:
        return _json(self._backend.cache_status())

    async def cache_evict(self, request: Request) -> Response:
        try:
            asked = wire.EvictRequest.model_validate_json(await request.body() or b"{}")
        except ValidationError as exc:
            return _json(wire.Failure(error=f"cannot evict as asked: {exc.errors()[0]['msg']}"), status=400)
        return _json(await self._backend.cache_evict(asked))

    async def cache_verify(self, _: Request) -> Response:
        return _VerifyLines(self._backend)

    async def metrics(self, _: Request) -> Response:
        return Response(self._backend.metrics_text(), media_type=PROMETHEUS_TEXT)


class _VerifyLines(Response):
    """Runs a verification while it is being sent: lines `{"progress": ...}`, then the report or a Failure.

    Progress is conflated: a reader slower than the disk gets fewer lines, and never holds the work up. The
    work is cancelled when the reader goes away.
    """

    media_type = JSON_LINES

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._backend = backend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with trio.open_nursery() as watch:
            watch.start_soon(_cancel_when_gone, receive, watch.cancel_scope)
            newest, lines = trio.open_memory_channel[wire.VerifyProgress](1)
            async with trio.open_nursery() as sending:
                sending.start_soon(_send_progress, lines, send)
                with newest:
                    last = await self._verify(newest)
            await send({"type": "http.response.body", "body": _line(last), "more_body": False})
            watch.cancel_scope.cancel()

    async def _verify(self, newest: trio.MemorySendChannel[wire.VerifyProgress]) -> wire.Answer:
        def report(progress: wire.VerifyProgress) -> None:
            try:
                newest.send_nowait(progress)
            except trio.WouldBlock:
                return

        try:
            return await self._backend.cache_verify(report)
        except errors.AliasfsError as exc:
            return _failure(exc)


async def _send_progress(lines: trio.MemoryReceiveChannel[wire.VerifyProgress], send: Send) -> None:
    async for progress in lines:
        body = b'{"progress":' + progress.model_dump_json().encode() + b"}\n"
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
    scope.cancel()


def _json(answer: BaseModel, *, status: int = 200, background: BackgroundTask | None = None) -> Response:
    return JSONResponse(answer.model_dump(mode="json"), status_code=status, background=background)


def _line(answer: BaseModel) -> bytes:
    return answer.model_dump_json().encode() + b"\n"


def _failure(error: errors.AliasfsError) -> wire.Failure:
    return wire.Failure(error=str(error), kind=type(error).__name__)


async def _answer_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, errors.AliasfsError)
    return _json(_failure(error), status=http_status(error))


async def _answer_bug(request: Request, error: Exception) -> Response:
    # The traceback is logged by the HTTP server, to which starlette raises the error again.
    log.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)
    return _json(wire.Failure(error="the daemon met a bug of its own; its log has the traceback"), status=500)
