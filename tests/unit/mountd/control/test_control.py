"""The control door on a real Unix socket, with a fake daemon behind it."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import trio
from support.fake_backend import FakeBackend

from aliasfs import errors, wire
from mountd.control import serve_control
from mountd.control.app import HTTP_STATUS, http_status


@pytest.fixture
def path() -> Iterator[Path]:
    # Not tmp_path: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ctl") as directory:
        yield Path(directory, "s.sock")


@pytest.fixture
def listener(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield listener


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
async def client(
    listener: socket.socket, path: Path, backend: FakeBackend, nursery: trio.Nursery
) -> AsyncIterator[httpx.AsyncClient]:
    await nursery.start(serve_control, backend, listener)
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://d") as client:
        yield client
    nursery.cancel_scope.cancel()


async def test_facts_are_served(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    assert (await client.get("/v1/health")).json() == {"ok": True, "pid": os.getpid()}
    answer = await client.get("/v1/status")
    assert wire.DaemonStatus.model_validate_json(answer.content) == backend.status()
    assert wire.CacheStatus.model_validate_json((await client.get("/v1/cache")).content) == backend.cache
    metrics = await client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"aliasfs_up 1.0" in metrics.content


async def test_reload_tells_what_changed(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    backend.changes = ["A was added"]
    assert (await client.post("/v1/reload")).json() == {"changes": ["A was added"]}
    assert backend.reloads == 1


async def test_stop_is_answered_before_it_happens(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    assert (await client.post("/v1/stop")).json() == {"stopping": True, "pid": os.getpid()}
    await backend.stopped.wait()


async def test_evict(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    assert (await client.post("/v1/cache/evict", json={"to_bytes": 7})).json()["used_bytes"] == 7
    assert (await client.post("/v1/cache/evict")).status_code == 200
    assert backend.evictions == [7, 0]
    refused = await client.post("/v1/cache/evict", json={"to_bytes": -1})
    assert refused.status_code == 400
    assert "greater than or equal to 0" in refused.json()["error"]


async def test_verify_streams_progress_and_ends_with_the_report(
    client: httpx.AsyncClient, backend: FakeBackend
) -> None:
    backend.progress = [wire.VerifyProgress(done_bytes=n, total_bytes=9) for n in range(10)]
    lines = (await client.post("/v1/cache/verify")).text.splitlines()
    assert lines[-1] == wire.VerifyReport(objects=1, blocks=2, bytes=3).model_dump_json()
    assert lines[0] == '{"progress":{"done_bytes":0,"total_bytes":9,"bad_blocks":0}}'
    assert all(line.startswith('{"progress":') for line in lines[:-1])


async def test_a_failure_of_verify_is_its_last_line(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    backend.failure = errors.NotSupported("no cache is configured")
    lines = (await client.post("/v1/cache/verify")).text.splitlines()
    assert lines == ['{"error":"no cache is configured","kind":"NotSupported"}']


async def test_verify_ends_when_the_asker_goes_away(
    client: httpx.AsyncClient, path: Path, backend: FakeBackend
) -> None:
    backend.progress = [wire.VerifyProgress()]
    backend.hold = True
    async with await trio.open_unix_socket(path) as asker:  # closed in mid-answer, as a killed client is
        await asker.send_all(b"POST /v1/cache/verify HTTP/1.1\r\nHost: d\r\n\r\n")
        received = b""
        while b"progress" not in received:
            received += await asker.receive_some()
    with trio.fail_after(10):
        await backend.verify_cancelled.wait()


async def test_errors_have_a_sentence_and_a_kind(client: httpx.AsyncClient, backend: FakeBackend) -> None:
    backend.failure = errors.ConfigError("config.yaml:3: no such key")
    answer = await client.post("/v1/reload")
    assert answer.status_code == 409
    assert answer.json() == {"error": "config.yaml:3: no such key", "kind": "ConfigError"}
    assert (await client.get("/v1/nothing")).status_code == 404


async def test_a_bug_is_answered_without_its_text_and_the_door_stays_open(
    client: httpx.AsyncClient, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.failure = ZeroDivisionError("secret=hunter2")
    answer = await client.get("/v1/status")
    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert "ZeroDivisionError" in caplog.text
    assert (await client.get("/v1/health")).status_code == 200


async def test_the_socket_outlives_the_server_and_who_asks_meanwhile_waits(
    listener: socket.socket, path: Path, backend: FakeBackend
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, backend, listener)
        nursery.cancel_scope.cancel()
    async with await trio.open_unix_socket(path) as asker, trio.open_nursery() as nursery:
        await asker.send_all(b"GET /v1/health HTTP/1.1\r\nHost: d\r\n\r\n")
        await nursery.start(serve_control, backend, listener)
        assert (await asker.receive_some()).startswith(b"HTTP/1.1 200")
        nursery.cancel_scope.cancel()


def test_every_error_has_an_http_status() -> None:
    def walk(cls: type[errors.AliasfsError]) -> Iterator[type[errors.AliasfsError]]:
        yield cls
        for sub in cls.__subclasses__():
            yield from walk(sub)

    assert all(400 <= http_status(cls("")) <= 599 for cls in walk(errors.AliasfsError))
    fallen_through = {cls for cls in walk(errors.AliasfsError) if http_status(cls("")) == 500}
    assert fallen_through <= {errors.AliasfsError, errors.BadHandle}
    assert HTTP_STATUS[errors.StaleObject] == 409
