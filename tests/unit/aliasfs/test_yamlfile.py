import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from aliasfs import yamlfile
from aliasfs.errors import ConfigError
from aliasfs.yamlfile import Editor, OctalInt

SECRET = "hunter2"


def accept(path: Path, text: str) -> None:
    """A check that finds nothing wrong."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("# mine\naliases:\n  A: /x   # one\n")
    return path


def put_b(editor: Editor) -> None:
    editor.put(("aliases", "B"), "/y")


def test_every_entry_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("aliases:\n  A: /x\n  B:\n    url: /y\n    options: {key: 1}\n")
    document = yamlfile.read(path)
    assert document.content == {"aliases": {"A": "/x", "B": {"url": "/y", "options": {"key": 1}}}}
    assert document.place(("aliases", "A")) == f"{path}:2"
    assert document.place(("aliases", "B", "options", "key")) == f"{path}:5"
    assert document.place(("aliases", "B", "absent", "deeper")) == f"{path}:3"
    assert document.place(("absent",)) == str(path)


def test_yaml_is_version_1_2() -> None:
    content = yamlfile.parse(Path("f"), "a: 0o644\nb: 0644\nNO: yes\nc: 1.5\nd: true\n").content
    assert content == {"a": 0o644, "b": 644, "NO": "yes", "c": 1.5, "d": True}
    assert isinstance(content["a"], OctalInt)
    assert type(content["b"]) is int


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeffaliases:\n"])
def test_an_empty_file_is_an_empty_mapping(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert not any(yamlfile.read(path).content.values())


@pytest.mark.parametrize(
    ("text", "place", "sentence"),
    [
        (f"a: 1\nb: {SECRET}\nb: {SECRET}\n", ":3:1", "the key b is given twice"),
        (f"x:\n  key: '{SECRET}\n", ":3:1", "not YAML"),
        (f"x: [{SECRET}\n", ":2:1", "not YAML"),
        (f"x: *{SECRET}\n", ":1:4", "not YAML"),
        (f"x: @{SECRET}\n", ":1:4", "not YAML"),
        ("a: 1\n\tb: 2\n", ":2:1", "not YAML"),
        ("- a\n- b\n", ":1", "must be a mapping"),
        (SECRET, ":1", "must be a mapping"),
        ("a: 1\n---\nb: 2\n", ":2:1", "not YAML"),
        ("a: \x00\n", "", "not YAML"),
        ("[" * 1000, "", "nested too deeply"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_its_place(text: str, place: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        yamlfile.parse(Path("/etc/f.yaml"), text)
    message = str(caught.value)
    assert message.startswith(f"/etc/f.yaml{place}: ")
    assert sentence in message
    assert "\n" not in message
    assert SECRET not in message


def test_an_anchor_within_itself_has_an_end() -> None:
    assert yamlfile.parse(Path("f"), "a: &x {b: *x}\n").content == {"a": {"b": None}}


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        yamlfile.read(tmp_path / "absent.yaml")
    assert yamlfile.read(tmp_path / "absent.yaml", missing_ok=True).content == {}
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        yamlfile.read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(ConfigError, match="byte 3 is not UTF-8"):
        yamlfile.read(tmp_path / "latin.yaml")


def test_an_edit_keeps_the_rest_of_the_file(file: Path) -> None:
    yamlfile.edit(file, put_b, accept)
    assert file.read_text() == "# mine\naliases:\n  A: /x   # one\n  B: /y\n"
    yamlfile.edit(file, lambda editor: editor.drop(("aliases", "A")), accept)
    assert file.read_text() == "# mine\naliases:\n  B: /y\n"


def test_a_refused_edit_leaves_file_and_directory_as_they_were(file: Path) -> None:
    before = file.read_bytes()

    def refuse(path: Path, text: str) -> None:
        assert path == file
        assert "B: /y" in text
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        yamlfile.edit(file, put_b, refuse)
    assert file.read_bytes() == before
    assert [entry.name for entry in file.parent.iterdir() if entry.suffix != ".lock"] == [file.name]


def test_mode_and_symlink_of_the_file_stay(file: Path, tmp_path: Path) -> None:
    file.chmod(0o640)
    link = tmp_path / "elsewhere" / "link.yaml"
    link.parent.mkdir()
    link.symlink_to(file)
    yamlfile.edit(link, put_b, accept)
    assert link.is_symlink()
    assert "B: /y" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_owner_of_the_file_stays(file: Path) -> None:
    os.chown(file, 12345, 12346)
    yamlfile.edit(file, put_b, accept)
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 12346)


def test_a_new_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "config.yaml"
    yamlfile.edit(path, put_b, accept)
    assert path.read_text() == "aliases:\n  B: /y\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_file_is_replaced_never_rewritten(file: Path) -> None:
    with file.open() as reader:
        yamlfile.edit(file, put_b, accept)
        assert "B" not in reader.read()


def test_two_editors_at_once_lose_nothing(file: Path) -> None:
    def add(number: int) -> None:
        yamlfile.edit(file, lambda editor: editor.put(("aliases", f"N{number}"), f"/{number}"), accept)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(yamlfile.read(file).content["aliases"]) == 9


def test_an_editor_that_never_ends_is_given_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlfile, "_LOCK_WAIT_S", 0.0)
    with open(file.with_name(".config.yaml.lock"), "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another program is editing"):
            yamlfile.edit(file, put_b, accept)


def test_a_layout_that_cannot_be_spliced_is_left_alone(file: Path) -> None:
    file.write_text("base: &b\n  A: /x\naliases: *b\n")
    with pytest.raises(ConfigError, match="edit it by hand"):
        yamlfile.edit(file, put_b, accept)
    assert file.read_text() == "base: &b\n  A: /x\naliases: *b\n"
