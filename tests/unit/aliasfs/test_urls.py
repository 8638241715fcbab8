import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aliasfs.errors import ConfigError
from aliasfs.urls import ObjectUrl, canonical, parse_object_url

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("/data/project", "/data/project"),
        ("/data/project/", "/data/project"),
        ("//data//./x/../y", "/data/y"),
        ("/", "/"),
        ("/a::b", "/a::b"),
        ("/with@sign:and?more", "/with@sign:and?more"),
        ("  /blanks/around  ", "/blanks/around"),
        ("~", "/home/me"),
        ("~/x/", "/home/me/x"),
        ("file:/x", "/x"),
        ("file:///x/y%20z/", "/x/y%20z"),
        ("FILE://localhost/x", "/x"),
        ("file://~/x", "/home/me/x"),
        ("s3://bucket", "s3://bucket"),
        ("S3://Bucket/A%20b/", "s3://Bucket/A%20b"),
        ("s3a://bucket/p", "s3://bucket/p"),
        ("s3://bucket/a//b", "s3://bucket/a//b"),
        ("s3://bucket/..hidden", "s3://bucket/..hidden"),
        ("az://container/p/", "az://container/p"),
        ("abfs://container/p", "abfs://container/p"),
        ("abfss://c@acc.dfs.core.windows.net/p", "abfss://c@acc.dfs.core.windows.net/p"),
        ("abfs://c@localhost:10000/p", "abfs://c@localhost:10000/p"),
        ("azfs://account/container/p", "azfs://account/container/p"),
        ("gcs://bucket/p", "gs://bucket/p"),
        ("HTTPS://Host/Path/", "https://Host/Path"),
        ("zip://::s3://b/a.zip", "zip://::s3://b/a.zip"),
        ("zip://inner/::S3://b/A.zip", "zip://inner/::s3://b/A.zip"),
        ("simplecache::s3://b/p/", "simplecache::s3://b/p"),
        ("memory://", "memory://"),
        ("memory:///x/", "memory:///x"),
        ("sftp://me@host/x", "sftp://me@host/x"),
    ],
)
def test_each_spelling_has_one_canonical_form(written: str, expected: str) -> None:
    assert canonical(written, home="/home/me") == expected
    assert canonical(expected, home="/home/me") == expected


@pytest.mark.parametrize(
    "written",
    [
        f"s3://key:{SECRET}@bucket/x",
        f"s3://AKIA:{SECRET[:3]}/{SECRET}@bucket/x",
        f"s3a://{SECRET}@bucket/x",
        f"https://{SECRET}@host/x",
        f"https://me:{SECRET}@host/x",
        f"sftp://me:{SECRET}@host/x",
        f"az://c/p?sv=1&sig={SECRET}",
        f"https://h/x?X-Amz-Signature={SECRET}",
        f"https://h/x?token={SECRET}",
        f"zip://::https://h/a.zip?sig={SECRET}",
        f"zip://::s3://k:{SECRET}@b/a.zip",
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={SECRET}",
        f"me:{SECRET}@bucket/x",
    ],
)
def test_a_credential_is_refused_and_never_repeated(written: str) -> None:
    with pytest.raises(ConfigError, match=r"carries a credential; .* options") as caught:
        canonical(written)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("<DATA>/x", "token <DATA>"),
        ("s3://b/<DATA>/x", "token <DATA>"),
        ("/a\nb", "control character"),
        ("data/x", "write it absolute, as in /etc/data/x"),
        ("../x", "write it absolute, as in /x"),
        ("C:\\data", "Windows path"),
        ("C:/data", "Windows path"),
        ("s3:/b/x", "did you mean s3://b/x"),
        ("file://server/x", "names the host server"),
        ("file:x", "no absolute path"),
        ("~nobody-of-that-name/x", "names no user"),
        ("s3://", "incomplete; write s3://BUCKET/PREFIX"),
        ("s3:///x", "incomplete"),
        ("azfs://account", "incomplete; write azfs://ACCOUNT/CONTAINER/PREFIX"),
        ("abfs://c@/p", "names no account"),
        ("s3://b/../c", "'.' or '..' segment"),
        ("s3://b/./c", "'.' or '..' segment"),
        ("http://h/../c", "'.' or '..' segment"),
        ("s3://..", "'.' or '..' segment"),
        ("https:///x", "names no host"),
        ("https://h/x?page=2", "followed by a query"),
    ],
)
def test_what_cannot_be_a_place_is_refused_with_advice(written: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        canonical(written, base="/etc")
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://b", ObjectUrl("s3", "", "b", "")),
        ("s3://b/p/q", ObjectUrl("s3", "", "b", "p/q")),
        ("gs://b/p", ObjectUrl("gs", "", "b", "p")),
        ("az://c/p", ObjectUrl("az", "", "c", "p")),
        ("azfs://a/c/p/q", ObjectUrl("azfs", "a", "c", "p/q")),
        (
            "abfss://c@acc.dfs.core.windows.net/p",
            ObjectUrl("abfss", "acc", "c", "p", "acc.dfs.core.windows.net"),
        ),
        ("/local", None),
        ("https://h/x", None),
        ("zip://::s3://b/a.zip", None),
        ("s3://arn:aws:s3:eu-west-1:1:accesspoint/x/y", None),
    ],
)
def test_object_urls_are_taken_apart(url: str, parts: ObjectUrl | None) -> None:
    assert parse_object_url(url) == parts


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_place_or_a_config_error(text: str) -> None:
    try:
        url = canonical(text, home="/home/me")
    except ConfigError:
        return
    assert canonical(url, home="/home/me") == url
