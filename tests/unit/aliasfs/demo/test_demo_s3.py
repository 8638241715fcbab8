from collections.abc import AsyncIterator
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest

from aliasfs.demo.s3 import NAMESPACE, read_only_s3

FILES = {"a.txt": b"alpha", "dir/b c.txt": b"beta", "dir/deep/c.txt": b"gamma", "dir-x": b"", "grün/ö.txt": b"umlaut"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for key, content in FILES.items():
        path = tmp_path / "root" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "secret").write_text("not yours")
    return tmp_path / "root"


@pytest.fixture
async def client(root: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(read_only_s3("bucket", root))
    async with httpx.AsyncClient(transport=transport, base_url="http://s3") as client:
        yield client


async def listing(client: httpx.AsyncClient, **query: str) -> tuple[list[str], list[str], str | None]:
    """Return the keys, the common prefixes and the continuation token of one page."""
    answer = await client.get("/bucket", params={"list-type": "2", **query})
    assert answer.status_code == 200
    tree = ElementTree.fromstring(answer.text)
    keys = [node.text or "" for node in tree.iterfind(f"{{{NAMESPACE}}}Contents/{{{NAMESPACE}}}Key")]
    prefixes = [node.text or "" for node in tree.iterfind(f"{{{NAMESPACE}}}CommonPrefixes/{{{NAMESPACE}}}Prefix")]
    return keys, prefixes, tree.findtext(f"{{{NAMESPACE}}}NextContinuationToken")


async def test_lists_all_keys_in_byte_order(client: httpx.AsyncClient) -> None:
    keys, prefixes, token = await listing(client)
    assert keys == sorted(FILES, key=str.encode)
    assert prefixes == []
    assert token is None


async def test_a_delimiter_folds_what_lies_deeper(client: httpx.AsyncClient) -> None:
    assert await listing(client, delimiter="/") == (["a.txt", "dir-x"], ["dir/", "grün/"], None)
    assert await listing(client, delimiter="/", prefix="dir/") == (["dir/b c.txt"], ["dir/deep/"], None)


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_pages_together_hold_each_entry_once(client: httpx.AsyncClient, size: int) -> None:
    found: list[str] = []
    token: str | None = ""
    while token is not None:
        after = {"continuation-token": token} if token else {}
        keys, prefixes, token = await listing(client, delimiter="/", **{"max-keys": str(size)}, **after)
        assert 1 <= len(keys) + len(prefixes) <= size
        found += sorted(keys + prefixes)
    assert found == ["a.txt", "dir-x", "dir/", "grün/"]


async def test_encoded_keys_survive(client: httpx.AsyncClient) -> None:
    keys, _, _ = await listing(client, prefix="dir/b", **{"encoding-type": "url"})
    assert keys == ["dir/b%20c.txt"]


async def test_nothing_below_a_prefix_is_an_empty_page(client: httpx.AsyncClient) -> None:
    assert await listing(client, prefix="none/") == ([], [], None)
    assert await listing(client, **{"max-keys": "0"}) == ([], [], None)


@pytest.mark.parametrize("query", ["max-keys=many", "continuation-token=zz"])
async def test_a_malformed_listing_request_is_refused(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/bucket?list-type=2&{query}")
    assert answer.status_code == 400
    assert "InvalidArgument" in answer.text


@pytest.mark.parametrize("key", FILES)
async def test_objects_come_back_whole(client: httpx.AsyncClient, key: str) -> None:
    answer = await client.get(f"/bucket/{key}")
    assert (answer.status_code, answer.content) == (200, FILES[key])
    head = await client.head(f"/bucket/{key}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(FILES[key]))
    assert head.headers["etag"] == answer.headers["etag"]


async def test_a_range_is_a_part(client: httpx.AsyncClient) -> None:
    answer = await client.get("/bucket/a.txt", headers={"Range": "bytes=1-3"})
    assert (answer.status_code, answer.content) == (206, b"lph")
    assert answer.headers["content-range"] == "bytes 1-3/5"


async def test_a_range_behind_the_end_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.get("/bucket/a.txt", headers={"Range": "bytes=9-10"})
    assert answer.status_code == 416


async def test_reads_can_be_pinned_to_a_version(client: httpx.AsyncClient, root: Path) -> None:
    etag = (await client.head("/bucket/a.txt")).headers["etag"]
    assert (await client.get("/bucket/a.txt", headers={"If-Match": etag})).status_code == 200
    assert (await client.get("/bucket/a.txt", headers={"If-None-Match": etag})).status_code == 304
    (root / "a.txt").write_bytes(b"another version")
    assert (await client.get("/bucket/a.txt", headers={"If-Match": etag})).status_code == 412
    assert (await client.get("/bucket/a.txt", headers={"If-None-Match": etag})).status_code == 200


@pytest.mark.parametrize("path", ["/bucket/none", "/bucket/dir", "/other/a.txt", "/other", "/bucket/%2e%2e/secret"])
async def test_what_is_not_there_is_404(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


async def test_a_link_out_of_the_directory_is_not_followed(client: httpx.AsyncClient, root: Path) -> None:
    (root / "link").symlink_to(root.parent / "secret")
    assert (await client.get("/bucket/link")).status_code == 404


async def test_writes_are_refused(client: httpx.AsyncClient, root: Path) -> None:
    assert (await client.put("/bucket/a.txt", content=b"x")).status_code == 405
    assert (await client.delete("/bucket/a.txt")).status_code == 405
    assert (root / "a.txt").read_bytes() == FILES["a.txt"]
