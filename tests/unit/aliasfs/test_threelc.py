from collections.abc import Callable
from pathlib import Path

import pytest

from aliasfs.errors import ConfigError
from aliasfs.threelc import Found, read_aliases

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_file


def test_a_real_file_with_folded_windows_paths_is_read(write: Write) -> None:
    file = write(
        "default_aliases.3lc.yaml",
        "aliases:\n"
        "  CHIHUAHUA_MUFFIN_DATA: \n"
        "    C:\\Users\\Shash\\Downloads\\3-lc-x-mnnit-ai-hackathon\\Starter_Kit\n"
        "  FOLDED:\n"
        "    /data/far/away/\n",
    )
    source = read_aliases(file)
    assert source.found == (Found("FOLDED", "/data/far/away", f"{file}:4"),)
    (skipped,) = source.skipped
    assert (skipped.name, skipped.origin, skipped.is_unusable) == ("CHIHUAHUA_MUFFIN_DATA", f"{file}:2", True)
    assert "Windows path" in skipped.reason
    assert source.files == (file,)


def test_brackets_variables_and_blanks_are_understood(write: Write) -> None:
    file = write(
        "c.yaml",
        "aliases:\n  <A>: /a\n  B: '  $ROOT/b '\n  C: ${ROOT}/c\n  D: ~/d\n  E: file:///e\n  F: S3://Bucket/f/\n",
    )
    source = read_aliases(file, {"HOME": "/home/me", "ROOT": "/root"})
    assert {found.name: found.url for found in source.found} == {
        "A": "/a",
        "B": "/root/b",
        "C": "/root/c",
        "D": "/home/me/d",
        "E": "/e",
        "F": "s3://Bucket/f",
    }
    assert not source.skipped


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("lower: /x", "capital letters"),
        ("<c>: /x", "capital letters"),
        ("A: 5", "must be text"),
        ("A: [x]", "must be text"),
        ("A:", "must be text"),
        ("A: ''", "is empty"),
        ("A: data/x", "relative path"),
        ("A: <B>/x", "do not nest"),
        ("A: $NOPE/x", "NOPE, which is not set"),
        ("A: 'C:/data'", "Windows path"),
        ("A: s3://k:hunter2@b/x", "carries a credential"),
    ],
)
def test_what_cannot_be_an_alias_here_is_skipped_with_its_reason(write: Write, line: str, reason: str) -> None:
    source = read_aliases(write("c.yaml", f"aliases:\n  {line}\n"), {"HOME": "/h"})
    assert not source.found
    assert reason in source.skipped[0].reason
    assert "hunter2" not in source.skipped[0].reason


def test_within_one_file_the_later_spelling_of_a_name_wins(write: Write) -> None:
    source = read_aliases(write("c.yaml", "aliases:\n  A: /first\n  <A>: /second\n"))
    assert [found.url for found in source.found] == ["/second"]


def test_user_goes_before_project_root_goes_before_projects(write: Write, tmp_path: Path) -> None:
    user = write(".config/3LC/config.yaml", "aliases: {A: /user}\n")
    root = write(".local/share/3LC/projects/config.3lc.yaml", "aliases: {A: /root, B: /root}\n")
    one = write(".local/share/3LC/projects/one/default_aliases.3lc.yaml", "aliases: {B: /one, C: /one, D: /same}\n")
    two = write(".local/share/3LC/projects/two/default_aliases.3lc.yaml", "aliases: {C: /two, D: /same}\n")
    source = read_aliases(environ={"HOME": str(tmp_path)})
    assert {found.name: found.url for found in source.found} == {"A": "/user", "B": "/root", "C": "/one", "D": "/same"}
    assert [(skipped.name, skipped.origin, skipped.is_unusable) for skipped in source.skipped] == [
        ("A", f"{root}:1", False),
        ("B", f"{one}:1", False),
        ("C", f"{two}:1", False),
    ]
    assert source.files == (user, root, one, two)


@pytest.mark.parametrize("by", ["variable", "setting"])
def test_files_and_project_root_can_be_elsewhere(write: Write, tmp_path: Path, by: str) -> None:
    setting = f"project-root-url: {tmp_path}/p\n" if by == "setting" else ""
    user = write("u.yaml", f"{setting}aliases: {{A: /a}}\n")
    write("p/config.3lc.yaml", "aliases: {B: /b}\n")
    environ = {"HOME": str(tmp_path), "TLC_CONFIG_FILE": str(user)}
    if by == "variable":
        environ["TLC_PROJECT_ROOT_URL"] = f"file://{tmp_path}/p"
    assert [found.name for found in read_aliases(environ=environ).found] == ["A", "B"]


def test_a_remote_project_root_is_left_out(write: Write, tmp_path: Path) -> None:
    write(".config/3LC/config.yaml", "project-root-url: s3://b/projects\naliases: {A: /a}\n")
    assert [found.name for found in read_aliases(environ={"HOME": str(tmp_path)}).found] == ["A"]


def test_nothing_to_read_is_an_error_that_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"3LC has no configuration at .*/\.config/3LC/config\.yaml"):
        read_aliases(environ={"HOME": str(tmp_path)})
    with pytest.raises(ConfigError, match="there is no such file"):
        read_aliases(tmp_path / "absent.yaml")


def test_a_file_that_is_wrong_as_a_whole_is_an_error(write: Write) -> None:
    with pytest.raises(ConfigError, match=":1: 'aliases' must be a mapping"):
        read_aliases(write("c.yaml", "aliases: [A]\n"))
    with pytest.raises(ConfigError, match="given twice"):
        read_aliases(write("c.yaml", "aliases: {A: /x, A: /y}\n"))
