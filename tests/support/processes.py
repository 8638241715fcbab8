"""Servers in processes of their own: started on a free loopback port, waited for, always ended by pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

START_S = 60.0
"""How long a server may take to answer; moto imports much, and CI machines are slow."""

REPOSITORY = Path(__file__).resolve().parents[2]

AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The published key of the emulator (learn.microsoft.com/azure/storage/common/storage-use-azurite); no secret."""


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def children() -> set[int]:
    """Return the pids of the children of this process, the servers of the session among them."""
    lists = Path("/proc/self/task").glob("*/children")
    return {int(pid) for children in lists for pid in children.read_text().split()}


@contextmanager
def server(command: Sequence[str], port: int) -> Iterator[None]:
    """Run *command* until the block ends; the block begins when *port* accepts connections."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
        environment = {**os.environ, "PYTHONWARNINGS": ""}
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        try:
            _wait_accepting(process, port, output)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_accepting(process: subprocess.Popen[bytes], port: int, output: object) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    output.seek(0)  # type: ignore[attr-defined]
    said = output.read().decode(errors="replace")  # type: ignore[attr-defined]
    raise RuntimeError(f"{process.args!r} does not answer on port {port}; it said: {said[-2000:]}")


@contextmanager
def moto_server() -> Iterator[str]:
    """Run an S3 server that checks no signatures; gives its URL."""
    port = free_port()
    with server([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        yield f"http://127.0.0.1:{port}"


def azurite_program() -> str | None:
    """Return where `azurite-blob` is: on the path, or put by npm into the repository."""
    places = [REPOSITORY / "node_modules/.bin", Path(tempfile.gettempdir()) / "azurite/node_modules/.bin"]
    return shutil.which("azurite-blob") or next(
        (found for place in places if (found := shutil.which("azurite-blob", path=str(place)))), None
    )


@contextmanager
def azurite_server() -> Iterator[str]:
    """Run an Azure Blob server, which checks keys and signatures; gives the URL of its account."""
    program = azurite_program()
    if program is None:
        reason = "azurite-blob is not installed: npm install azurite"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    port = free_port()
    command = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--disableTelemetry"]
    with server([*command, "--skipApiVersionCheck", "--inMemoryPersistence"], port):
        yield f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}"
