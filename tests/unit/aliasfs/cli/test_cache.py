"""`cache` asks the daemon that has the directory, else the program that can open it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.fake_backend import FakeBackend, served
from support.runtime import runtime_dir as runtime_dir
from typer.testing import CliRunner

from aliasfs import errors, wire
from aliasfs.cli.app import build

pytestmark = pytest.mark.usefixtures("runtime_dir")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configured cache directory."""
    (tmp_path / "config.yaml").write_text(f"cache: {{dir: {tmp_path / 'cache'}}}\n")
    monkeypatch.setenv("ALIASFS_CONFIG", str(tmp_path / "config.yaml"))
    return tmp_path / "cache"


@pytest.fixture
def backend(tmp_path: Path, directory: Path) -> FakeBackend:
    """A daemon that has the directory."""
    cache = wire.CacheStatus(dir=str(directory), state="on", used_bytes=1500, objects=2, hits=3, misses=1)
    return FakeBackend(point=str(tmp_path / "mnt"), cache=cache, progress=[wire.VerifyProgress(total_bytes=1)])


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script in the place of the interpreter that would run `mountd cache`; it prints its arguments first."""
    script = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(script))
    return script


def plays(script: Path, *lines: str, code: int = 0, complaint: str = "") -> None:
    printed = "\n".join(f"echo '{line}'" for line in lines)
    script.write_text(f'#!/bin/sh\necho "$@" > "$0.args"\n{printed}\necho "{complaint}" >&2\nexit {code}\n')
    script.chmod(0o755)


def typed(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(build(), ["cache", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


def test_a_daemon_is_asked(backend: FakeBackend) -> None:
    with served(backend):
        facts = dict(line.split("\t") for line in typed("status").splitlines())
        assert (facts["used by"], facts["used"]) == (f"the mount {backend.point}", "1.5 kB in 2 objects")
        assert facts["hits"] == "3 of 4 (75%)"
        assert json.loads(typed("status", "--json")) == backend.cache.model_dump(mode="json")
        assert "gave back 5 B of 1 objects" in typed("evict", "--to", "2kB")
        assert json.loads(typed("evict", "--json"))["used_bytes"] == 0
        assert backend.evictions == [2000, 0]
        assert "checked 3 B in 2 blocks of 1 objects: all good" in typed("verify")


def test_another_directory_is_not_the_daemons(backend: FakeBackend, program: Path, tmp_path: Path) -> None:
    plays(program, wire.CacheStatus(dir="/other", state="on").model_dump_json())
    with served(backend):
        assert "used by\tno mount\n" in typed("status", "--dir", tmp_path / "other")
    assert Path(f"{program}.args").read_text().split()[:6] == [
        *("-P", "-m", "mountd", "cache", "status"),
        "--dir",
    ]


def test_without_a_daemon_the_program_does_the_work(program: Path, directory: Path) -> None:
    plays(program, '{"evicted_bytes": 7, "evicted_objects": 2, "used_bytes": 0}')
    assert "gave back 7 B of 2 objects; 0 B are left" in typed("evict")
    assert Path(f"{program}.args").read_text().strip() == (
        f"-P -m mountd cache evict --dir {directory} --to-bytes 0 --json"
    )


def test_bad_blocks_are_counted_and_are_the_exit_code(program: Path) -> None:
    plays(
        program,
        '{"progress": {"done_bytes": 1, "total_bytes": 2}}',
        '{"objects": 1, "blocks": 2, "bytes": 3, "bad_blocks": 1}',
        complaint="a warning in the log",
    )
    assert "1 blocks were bad and have been dropped" in typed("verify", code=1)
    assert json.loads(typed("verify", "--json", code=1))["bad_blocks"] == 1


def test_what_the_program_fails_with_is_the_error(program: Path) -> None:
    plays(program, code=69, complaint="mountd: /c is in use by pid 7")
    with pytest.raises(errors.MountError, match=r"^/c is in use by pid 7$"):
        typed("status")
    plays(program, code=0)
    with pytest.raises(errors.AliasfsError):
        typed("status")


def test_a_size_that_is_none() -> None:
    assert typed("evict", "--to", "much", code=2) == ""
