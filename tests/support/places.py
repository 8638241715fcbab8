"""Empty places of every kind for the contract suite: a store, and another client that writes behind its back."""

from __future__ import annotations

import io
import itertools
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from aliasfs.registry import Alias, Engine
from aliasfs.store import open_store
from aliasfs.store.base import Store
from aliasfs.store.memory import MemoryStore
from support.http_server import web_server
from support.processes import AZURITE_ACCOUNT, AZURITE_KEY

_numbers = itertools.count(1)


class Place(ABC):
    """What the suite has to know of a kind of place.

    *flat*: keys need not be paths. *keeps_open_files*: a file that was replaced can be read on as long as it
    is open.
    """

    flat = True
    keeps_open_files = False
    secrets: tuple[str, ...] = ()
    store: Store

    @abstractmethod
    def __init__(self, request: pytest.FixtureRequest) -> None:
        """Make the place."""

    @abstractmethod
    def put(self, objects: Mapping[str, bytes]) -> None:
        """Write *objects*, as another client."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Remove the object *key*, as another client."""

    @abstractmethod
    def missing(self) -> Store:
        """Return a store of this kind for a place that does not exist."""

    def can_hold(self, key: str) -> bool:
        """Say whether this kind of place, or the server that stands for it here, can hold *key*."""
        return True


def _at_once(put_one: Callable[[tuple[str, bytes]], None], items: Iterable[tuple[str, bytes]]) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put_one, items))


class MemoryPlace(Place):
    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.store: MemoryStore = MemoryStore()

    def put(self, objects: Mapping[str, bytes]) -> None:
        for key, body in objects.items():
            self.store.put(key, body)

    def remove(self, key: str) -> None:
        self.store.remove(key)

    def missing(self) -> Store:
        gone = MemoryStore()
        gone.remove_root()
        return gone


class LocalPlace(Place):
    flat = False
    keeps_open_files = True

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.root: Path = request.getfixturevalue("tmp_path") / "root"
        self.root.mkdir()
        self.store = open_store(Alias("A", str(self.root)))

    def put(self, objects: Mapping[str, bytes]) -> None:
        for key, body in objects.items():
            path = self.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(".fresh")
            fresh.write_bytes(body)
            fresh.rename(path)

    def remove(self, key: str) -> None:
        (self.root / key).unlink()

    def missing(self) -> Store:
        return open_store(Alias("A", str(self.root / "nowhere")))


class S3Place(Place):
    secrets = ("s3-secret-of-the-test",)
    engine = Engine.AUTO

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.endpoint: str = request.getfixturevalue("s3_endpoint")
        self.client: Any = request.getfixturevalue("s3_client")
        self.bucket = f"bucket-{next(_numbers)}"
        self.client.create_bucket(Bucket=self.bucket)
        self.store = self.open(f"s3://{self.bucket}/root/of alias")

    def open(self, url: str) -> Store:
        options = {"key": "test", "secret": self.secrets[0], "endpoint_url": self.endpoint}
        return open_store(Alias("A", url, options=options, engine=self.engine))

    def put(self, objects: Mapping[str, bytes]) -> None:
        def put_one(item: tuple[str, bytes]) -> None:
            self.client.put_object(Bucket=self.bucket, Key=f"root/of alias/{item[0]}", Body=item[1])

        _at_once(put_one, objects.items())

    def can_hold(self, key: str) -> bool:
        return "\n" not in key  # moto finds no route for it; S3 itself takes it

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"root/of alias/{key}")

    def missing(self) -> Store:
        return self.open("s3://no-such-bucket-here")


class S3fsPlace(S3Place):
    engine = Engine.FSSPEC


class AzurePlace(Place):
    secrets = (AZURITE_KEY,)
    engine = Engine.AUTO

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.endpoint: str = request.getfixturevalue("azure_endpoint")
        service: Any = request.getfixturevalue("azure_service")
        self.container = f"container-{next(_numbers)}"
        self.client: Any = service.create_container(self.container)
        self.store = self.open(f"az://{self.container}/root/of alias")

    def open(self, url: str) -> Store:
        text = f"AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};BlobEndpoint={self.endpoint};"
        options = {"connection_string": f"DefaultEndpointsProtocol=http;{text}"}
        return open_store(Alias("A", url, options=options, engine=self.engine))

    def put(self, objects: Mapping[str, bytes]) -> None:
        def put_one(item: tuple[str, bytes]) -> None:
            self.client.upload_blob(f"root/of alias/{item[0]}", item[1], overwrite=True)

        _at_once(put_one, objects.items())

    def remove(self, key: str) -> None:
        self.client.delete_blob(f"root/of alias/{key}")

    def missing(self) -> Store:
        return self.open("az://no-such-container-here")

    def can_hold(self, key: str) -> bool:
        # The SDK with which the test writes takes such segments out of the URL after it has signed it.
        return not {"", ".", ".."} & set(key.rstrip("/").split("/"))


class AdlfsPlace(AzurePlace):
    engine = Engine.FSSPEC


class FsspecMemoryPlace(Place):
    """fsspec's own memory file system, which has real directories."""

    flat = False

    def __init__(self, request: pytest.FixtureRequest) -> None:
        import fsspec

        self.fs: Any = fsspec.filesystem("memory")
        self.root = f"/place-{next(_numbers)}"
        self.fs.mkdir(self.root)
        self.store = open_store(Alias("A", f"memory:/{self.root}"))

    def put(self, objects: Mapping[str, bytes]) -> None:
        for key, body in objects.items():
            self.fs.pipe_file(f"{self.root}/{key}", body)

    def remove(self, key: str) -> None:
        self.fs.rm(f"{self.root}/{key}")

    def missing(self) -> Store:
        return open_store(Alias("A", "memory://no-such-place-here"))


class ZipPlace(Place):
    """A zip archive in a bucket; each change writes the archive anew."""

    flat = False
    secrets = ("s3-secret-of-the-test",)

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.endpoint: str = request.getfixturevalue("s3_endpoint")
        self.client: Any = request.getfixturevalue("s3_client")
        self.bucket = f"bucket-{next(_numbers)}"
        self.client.create_bucket(Bucket=self.bucket)
        self.objects: dict[str, bytes] = {}
        self.put({})
        self.store = self.open(f"zip://::s3://{self.bucket}/archive.zip")

    def open(self, url: str) -> Store:
        s3 = {"key": "test", "secret": self.secrets[0], "endpoint_url": self.endpoint}
        return open_store(Alias("A", url, options={"s3": s3}))

    def put(self, objects: Mapping[str, bytes]) -> None:
        self.objects.update(objects)
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, body in self.objects.items():
                archive.writestr(key, body)
        self.client.put_object(Bucket=self.bucket, Key="archive.zip", Body=content.getvalue())

    def remove(self, key: str) -> None:
        del self.objects[key]
        self.put({})

    def missing(self) -> Store:
        return self.open("zip://::s3://no-such-bucket-here/archive.zip")


class HttpPlace(Place):
    """A folder behind a web server with index pages; *etags* says whether it names versions by strong etags."""

    flat = False
    etags = True

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.root: Path = request.getfixturevalue("tmp_path") / "www"
        self.root.mkdir()
        server = web_server(self.root, etags=self.etags)
        self.endpoint = server.__enter__()
        request.addfinalizer(lambda: server.__exit__(None, None, None))
        self.store = open_store(Alias("A", self.endpoint))
        self.writes = 0

    def put(self, objects: Mapping[str, bytes]) -> None:
        for key, body in objects.items():
            path = self.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.root.with_name("fresh")
            fresh.write_bytes(body)
            self.writes += 1
            os.utime(fresh, (1_700_000_000 + self.writes, 1_700_000_000 + self.writes))
            fresh.rename(path)

    def remove(self, key: str) -> None:
        (self.root / key).unlink()

    def missing(self) -> Store:
        return open_store(Alias("A", f"{self.endpoint}/no-such-folder"))


class HttpWithoutEtagsPlace(HttpPlace):
    etags = False


PLACES: dict[str, type[Place]] = {
    "memory": MemoryPlace,
    "local": LocalPlace,
    "s3-obstore": S3Place,
    "s3-s3fs": S3fsPlace,
    "azure-obstore": AzurePlace,
    "azure-adlfs": AdlfsPlace,
    "fsspec-memory": FsspecMemoryPlace,
    "zip-over-s3": ZipPlace,
    "http-etags": HttpPlace,
    "http-dates": HttpWithoutEtagsPlace,
}
