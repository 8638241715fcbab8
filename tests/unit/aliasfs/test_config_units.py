import pytest

from aliasfs.units import Share, expand, parse_mode, parse_share, parse_size


@pytest.mark.parametrize(
    ("written", "size_bytes"),
    [
        (0, 0),
        (123, 123),
        ("123", 123),
        ("20GB", 20 * 10**9),
        ("20 gb", 20 * 10**9),
        ("500 MiB", 500 * 2**20),
        ("1.5KiB", 1536),
        ("2T", 2 * 10**12),
        ("7B", 7),
        ("1Ki", 1024),
    ],
)
def test_sizes_take_decimal_and_binary_units(written: object, size_bytes: int) -> None:
    assert parse_size(written) == size_bytes


@pytest.mark.parametrize("written", ["", "GB", "-1", -1, "20XB", "5iB", "5i", True, None, 1.5, "1e3", "20 GB free"])
def test_what_is_no_size_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="write a number of bytes"):
        parse_size(written)


def test_a_share_is_a_percentage_or_a_size() -> None:
    assert parse_share("5%").of(2000) == 100
    assert parse_share("0.5 %").of(2000) == 10
    assert parse_share("1kB").of(2000) == 1000
    assert parse_share(10) == Share(size_bytes=10)


@pytest.mark.parametrize("written", ["100%", "%", "-5%", "many", None])
def test_what_is_no_share_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="percentage below 100%"):
        parse_share(written)


@pytest.mark.parametrize(("written", "mode"), [("0644", 0o644), ("644", 0o644), ("0o755", 0o755), ("0", 0)])
def test_modes_are_octal(written: str, mode: int) -> None:
    assert parse_mode(written) == mode


@pytest.mark.parametrize("written", ["", "0888", "1777", "rw-r--r--", "0x1ff"])
def test_what_is_no_mode_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="octal"):
        parse_mode(written)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("${A}", "one"),
        ("x${A}${B}y", "xonetwoy"),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("$A and $", "$A and $"),
        ("${C}", "${A}"),
        ("~", "/h"),
        ("~/x", "/h/x"),
        ("~x", "~x"),
        ("x~/y", "x~/y"),
    ],
)
def test_variables_and_home_are_expanded_once(text: str, expected: str) -> None:
    assert expand(text, {"A": "one", "B": "two", "C": "${A}"}, "/h") == expected


@pytest.mark.parametrize("text", ["${NOPE}", "a${NOPE}b"])
def test_an_unset_variable_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="environment variable NOPE is not set"):
        expand(text, {}, "/h")


@pytest.mark.parametrize("text", ["${", "${A", "${}", "${A:-x}", "${1A}"])
def test_an_unfinished_variable_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write \$\{NAME\}"):
        expand(text, {"A": "one"}, "/h")
