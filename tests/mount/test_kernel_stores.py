"""Bytes through the kernel are the bytes of the store, whatever the store, cold and warm, for many at once."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Mounting
from support.mounted import Mounted
from support.places import PLACES, Place

from aliasfs.registry import Alias

REMOTE = [name for name in PLACES if name not in ("memory", "local", "fsspec-memory")]
MARKS = {"s3": pytest.mark.s3, "azure": pytest.mark.azure, "zip": pytest.mark.s3}
SIZES = {"empty": 0, "byte": 1, "d/block": 262_144, "d/odd": 262_145, "d/e/big": 3_300_001}
READERS = 16


def _marked(name: str) -> Any:
    mark = MARKS.get(name.partition("-")[0])
    return pytest.param(name, marks=[mark] if mark else [])


def _content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _digests(root: Path) -> dict[str, str]:
    """Return what `md5sum` says of every file below *root*."""
    found = subprocess.run(
        ["find", ".", "-type", "f", "-exec", "md5sum", "{}", "+"], cwd=root, capture_output=True, text=True, check=True
    )
    return {line[34:].removeprefix("./"): line[:32] for line in found.stdout.splitlines()}


class Served:
    """A place with objects in it, and a mount of it as the alias R."""

    def __init__(self, place: Place, alias: Alias, mount: Mounting) -> None:
        self.place = place
        self.objects: dict[str, bytes] = {}
        self._mount = mount
        self._entry: dict[str, Any] = {
            "url": alias.url,
            "options": dict(alias.options),
            "engine": alias.engine.value,
            "ttl": 0,
        }

    def put(self, objects: dict[str, bytes]) -> None:
        self.place.put(objects)
        self.objects |= objects

    def mounted(self, **changes: Any) -> Mounted:
        return self._mount({"R": self._entry | changes})

    def expected(self) -> dict[str, str]:
        return {key: hashlib.md5(body).hexdigest() for key, body in self.objects.items()}


@pytest.fixture(params=[_marked(name) for name in REMOTE])
def served(request: pytest.FixtureRequest, mount: Mounting, recorded_alias: Callable[[], Alias]) -> Served:
    place = PLACES[request.param](request)
    return Served(place, recorded_alias(), mount)


def test_md5sum_is_that_of_the_source_cold_warm_and_after_a_restart(served: Served) -> None:
    served.put({key: _content(index, size) for index, (key, size) in enumerate(SIZES.items())})
    mounted = served.mounted()
    root = mounted.point / "R"
    assert _digests(root) == served.expected()
    assert _digests(root) == served.expected()
    mounted.restart()
    with mounted.client() as client:
        before = client.status().aliases[0].bytes_read
        assert _digests(root) == served.expected()
        status = client.status()
    assert status.cache.state == "on"
    assert status.aliases[0].bytes_read == before, "the cache was not used"
    assert status.aliases[0].health == "ok"


READER = """
import hashlib, os, sys
try:
    with open(sys.argv[1], "rb", buffering=0) as file:
        digest = hashlib.md5()
        while piece := file.read(int(sys.argv[2])):
            digest.update(piece)
    print(digest.hexdigest())
except OSError as exc:
    print(exc.errno)
"""


def _readers(path: Path, count: int) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            [sys.executable, "-S", "-c", READER, path, str(4096 << index % 8)], stdout=subprocess.PIPE, text=True
        )
        for index in range(count)
    ]


def _answers(readers: list[subprocess.Popen[str]]) -> set[str]:
    return {reader.communicate(timeout=60)[0].strip() for reader in readers}


@pytest.mark.parametrize("served", ["s3-obstore", "azure-adlfs"], indirect=True)
def test_16_processes_read_the_same_at_once(served: Served) -> None:
    served.put({"big": _content(1, 9_000_000)})
    mounted = served.mounted()
    assert _answers(_readers(mounted.point / "R" / "big", READERS)) == set(served.expected().values())
    with mounted.client() as client:
        assert client.status().aliases[0].bytes_read <= 9_000_000, "a byte was fetched twice"


@pytest.mark.parametrize(
    "served", ["s3-obstore", "s3-s3fs", "azure-obstore", "azure-adlfs", "http-etags"], indirect=True
)
def test_an_object_that_is_replaced_while_it_is_read_gives_old_bytes_or_estale(served: Served) -> None:
    versions = [_content(seed, 5_000_000 + seed) for seed in range(8)]
    served.put({"big": versions[0]})
    mounted = served.mounted()
    mounted.expect("StaleObject", "changed in the store")
    path = mounted.point / "R" / "big"
    done = threading.Event()

    def replace() -> None:
        for version in versions[1:]:
            served.put({"big": version})
            done.wait(0.15)
        done.set()

    replacing = threading.Thread(target=replace)
    replacing.start()
    answers: set[str] = set()
    while not done.is_set():
        answers |= _answers(_readers(path, 4))
    replacing.join()
    allowed = {hashlib.md5(version).hexdigest() for version in versions} | {str(errno.ESTALE)}
    assert answers <= allowed
    assert path.read_bytes() == versions[-1]


def _pread(fd: int, offset: int) -> bytes | int | None:
    """Return 1,000 bytes, or the errno that stands in their place."""
    try:
        return os.pread(fd, 1000, offset)
    except OSError as exc:
        return exc.errno


@pytest.mark.parametrize("served", ["s3-obstore"], indirect=True)
def test_an_open_file_is_its_version_or_stale_and_the_path_is_the_new_one(served: Served) -> None:
    old, new = _content(1, 9_000_000), _content(2, 9_000_000)
    served.put({"a": old})
    mounted = served.mounted()
    mounted.expect("StaleObject")
    path = mounted.point / "R" / "a"
    with path.open("rb", buffering=0) as file:
        assert file.read(1000) == old[:1000]
        number = os.fstat(file.fileno()).st_ino
        served.put({"a": new})
        assert path.read_bytes() == new
        assert path.stat().st_ino != number
        for offset in range(0, 9_000_000, 500_000):
            assert _pread(file.fileno(), offset) in (old[offset : offset + 1000], errno.ESTALE)
    assert os.getxattr(path, "user.aliasfs.etag")
    assert int(os.getxattr(path, "user.aliasfs.cached_bytes")) > 0


@pytest.mark.s3
@pytest.mark.parametrize("served", ["s3-obstore", "s3-s3fs"], indirect=True)
def test_odd_keys_are_shown_or_left_out_and_lead_nowhere_else(served: Served) -> None:
    served.place.put(
        {
            "d": b"beside d/",
            "d/a": b"a",
            "d/with space": b"b",
            "d/ünï": b"c",
            "d//double": b"no",
            "d/./dot": b"no",
            "d/../../up": b"no",
            "d/" + "n" * 255: b"long",
            "d/" + "n" * 256: b"no",
            "d/%2e%2e": b"literal",
            "marker/": b"",
        }
    )
    mounted = served.mounted()
    mounted.expect("left out of the listing")
    root = mounted.point / "R"
    assert sorted(os.listdir(root)) == ["d", "marker"]
    assert sorted(os.listdir(root / "d")) == sorted(["a", "with space", "ünï", "n" * 255, "%2e%2e"])
    assert os.listdir(root / "marker") == []
    for name, content in (("a", b"a"), ("ünï", b"c"), ("n" * 255, b"long"), ("%2e%2e", b"literal")):
        assert (root / "d" / name).read_bytes() == content
    assert "Traceback" not in mounted.said


@pytest.mark.s3
@pytest.mark.parametrize("served", ["s3-obstore"], indirect=True)
def test_a_big_directory_streams(served: Served) -> None:
    served.put({f"d/{index:05}": b"" for index in range(1500)})
    mounted = served.mounted(ttl=60)
    root = mounted.point / "R"
    assert sorted(os.listdir(root / "d")) == [f"{index:05}" for index in range(1500)]
    with os.scandir(root / "d") as entries:
        assert sum(entry.stat().st_size == 0 for entry in entries) == 1500
    with mounted.client() as client:
        assert client.status().aliases[0].requests < 10, "each name was asked for"
