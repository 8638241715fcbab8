"""`aliasfs alias ...` as it is typed: output, exit codes, and what is left in the files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from support.fake_backend import FakeBackend, served
from support.runtime import runtime_dir as runtime_dir

from aliasfs import config
from aliasfs.cli import main

SECRET = "hunter2"

FILE = f"""\
# ours
aliases:
  DATA: /data/project   # on every machine
  LAKE:
    url: s3://lake/x
    options: {{endpoint_url: http://10.0.0.5:9000, key: AKIA, secret: {SECRET}}}
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime_dir: Path) -> Path:
    """A home and a system file of the test's own, and an environment without aliases."""
    for variable in [name for name in os.environ if name.startswith(("ALIASFS_", "TLC_", "XDG_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(config, "SYSTEM_FILE", tmp_path / "etc" / "config.yaml")
    return tmp_path


@pytest.fixture
def user_file(home: Path) -> Path:
    path = home / ".config" / "aliasfs" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(FILE)
    return path


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    def run_main(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["aliasfs", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return Ran(int(ended.value.code or 0), out, err)

    return run_main


def test_list_says_where_each_came_from(run: Run, user_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIASFS_ALIAS_ENV", "/env")
    assert run("alias", "list").out.splitlines() == [
        f"DATA\t/data/project\tro\t1\tuser\t{user_file}:3",
        f"LAKE\ts3://lake/x\tro\t60\tuser\t{user_file}:4",
        "ENV\t/env\tro\t1\tenvironment\tALIASFS_ALIAS_ENV",
    ]


def test_secrets_are_never_shown(run: Run, user_file: Path) -> None:
    lake = json.loads(run("alias", "list", "--json").out)[1]
    assert lake["options"] == {"endpoint_url": "http://10.0.0.5:9000", "key": "***", "secret": "***"}
    shown = run("alias", "show", "LAKE")
    assert f"from\t{user_file}:4" in shown.out
    assert "options.endpoint_url\thttp://10.0.0.5:9000" in shown.out
    for arguments in (["list"], ["show", "LAKE"], ["show", "LAKE", "--json"], ["list", "--json"]):
        ran = run("alias", *arguments)
        assert ran.code == 0
        assert SECRET not in ran.out + ran.err
        assert "AKIA" not in ran.out + ran.err


def test_an_unknown_alias_is_one_sentence(run: Run, user_file: Path) -> None:
    for command in ("show", "check", "remove"):
        ran = run("alias", command, "NOPE")
        assert (ran.code, ran.out) == (66, "")
        assert ran.err == "aliasfs: no alias is named NOPE; 'aliasfs alias list' shows those that are\n"


def test_a_broken_file_is_told_line_by_line_with_78(run: Run, user_file: Path) -> None:
    user_file.write_text("aliases: {bad: /x}\ncahce: {}\n")
    ran = run("alias", "list")
    assert ran.code == 78
    assert [line.split(": ")[:2] for line in ran.err.splitlines()] == [
        ["aliasfs", f"{user_file}:1"],
        ["aliasfs", f"{user_file}:2"],
    ]


def test_add_keeps_the_file_as_it_was(run: Run, user_file: Path) -> None:
    assert run("alias", "add", "NEW", "~/new").code == 0
    assert user_file.read_text() == FILE + "  NEW: ~/new\n"
    assert f"NEW\t{Path.home()}/new\t" in run("alias", "list").out


def test_add_takes_policy_and_options(run: Run, user_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_KEY", "k")
    arguments = "NEW s3://b/x --mode rw --ttl 5 --engine fsspec -o anon=false -o client_kwargs.region_name=eu"
    ran = run("alias", "add", *arguments.split(), "-o", "key=${S3_KEY}", "--option", "secret=123")
    assert ran.code == 0
    assert "the value of secret now stands in" in ran.err
    assert "key" not in ran.err.replace("the value of secret", "")
    alias = config.load().registry["NEW"]
    assert (alias.mode, alias.ttl_s, alias.engine) == ("rw", 5, "fsspec")
    assert alias.options == {"anon": False, "client_kwargs": {"region_name": "eu"}, "key": "k", "secret": "123"}


def test_add_makes_the_first_file(run: Run, home: Path) -> None:
    assert run("alias", "add", "A", "/x").code == 0
    assert (home / ".config/aliasfs/config.yaml").read_text() == "aliases:\n  A: /x\n"
    named = home / "named.yaml"
    assert run("alias", "add", "A", "/x", "--config", named).code == 0
    assert named.read_text() == "aliases:\n  A: /x\n"


def test_add_replaces_only_when_told(run: Run, user_file: Path) -> None:
    ran = run("alias", "add", "DATA", "/other")
    assert ran.code == 73
    assert "aliasfs alias set DATA" in ran.err
    assert user_file.read_text() == FILE
    assert run("alias", "add", "DATA", "/other", "--force").code == 0
    assert user_file.read_text() == FILE.replace("/data/project", "/other")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["lower", "/x"], 78, "did you mean LOWER?"),
        (["A", "rel/x"], 78, "write it absolute, as in /"),
        (["A", ""], 78, "is empty"),
        (["A", f"s3://k:{SECRET}@b"], 78, "carries a credential"),
        (["A", "${NOPE}/x"], 78, "NOPE is not set"),
        (["A", "/x", "-o", "key=${NOPE}"], 78, "NOPE is not set"),
        (["A", "/x", "--mode", "wo"], 2, "is not one of"),
        (["A", "/x", "--ttl", "-1"], 2, "ttl"),
        (["A", "/x", "-o", SECRET], 2, "KEY=VALUE"),
    ],
)
def test_a_bad_edit_leaves_the_file_untouched(
    run: Run, user_file: Path, arguments: list[str], code: int, sentence: str
) -> None:
    ran = run("alias", "add", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert sentence in ran.err
    assert SECRET not in ran.err
    assert "Traceback" not in ran.err
    assert user_file.read_text() == FILE


def test_set_changes_what_it_is_told_and_nothing_else(run: Run, user_file: Path) -> None:
    assert run("alias", "set", "DATA", "--mode", "rw").code == 0
    assert run("alias", "set", "LAKE", "s3://lake/y", "--ttl", "0.5").code == 0
    assert run("alias", "set", "LAKE", "--unset", "secret", "--unset", "key", "-o", "anon=true").code == 0
    assert user_file.read_text() == (
        "# ours\n"
        "aliases:\n"
        "  DATA:\n"
        "    url: /data/project   # on every machine\n"
        "    mode: rw\n"
        "  LAKE:\n"
        "    url: s3://lake/y\n"
        "    options: {endpoint_url: http://10.0.0.5:9000, anon: true}\n"
        "    ttl: 0.5\n"
    )
    loaded = config.load().registry
    assert (loaded["DATA"].url, loaded["DATA"].mode) == ("/data/project", "rw")
    assert (loaded["LAKE"].url, loaded["LAKE"].ttl_s) == ("s3://lake/y", 0.5)
    assert loaded["LAKE"].options == {"endpoint_url": "http://10.0.0.5:9000", "anon": True}


def test_set_of_a_new_place_keeps_the_short_form(run: Run, user_file: Path) -> None:
    assert run("alias", "set", "DATA", "/moved").code == 0
    assert user_file.read_text() == FILE.replace("/data/project", "/moved")


def test_set_needs_something_to_set(run: Run, user_file: Path) -> None:
    assert run("alias", "set", "DATA").code == 2
    ran = run("alias", "set", "LAKE", "--unset", "nope")
    assert ran.code == 78
    assert "LAKE has no option nope" in ran.err
    assert user_file.read_text() == FILE


def test_remove_takes_only_the_aliases_named(run: Run, user_file: Path) -> None:
    assert run("alias", "remove", "LAKE").code == 0
    assert user_file.read_text() == "# ours\naliases:\n  DATA: /data/project   # on every machine\n"
    assert run("alias", "remove", "DATA", "NOPE").code == 66
    assert "DATA" in user_file.read_text()


def test_remove_mends_a_file_that_is_wrong(run: Run, user_file: Path) -> None:
    user_file.write_text("aliases:\n  A: /x\n  bad: /y\n")
    assert run("alias", "remove", "bad").code == 0
    assert user_file.read_text() == "aliases:\n  A: /x\n"


def test_each_alias_is_edited_in_the_file_that_defines_it(run: Run, user_file: Path, home: Path) -> None:
    system = config.SYSTEM_FILE
    system.parent.mkdir()
    system.write_text("aliases: {SYS: /sys, DATA: /shadowed}\n")
    assert run("alias", "set", "SYS", "/new").code == 0
    assert system.read_text() == "aliases: {SYS: /new, DATA: /shadowed}\n"
    assert run("alias", "remove", "DATA").code == 0
    assert config.load().registry["DATA"].url == "/shadowed"


def test_an_alias_of_the_environment_is_changed_there(
    run: Run, user_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIASFS_ALIAS_ENV", "/env")
    assert "ALIASFS_ALIAS_ENV; change it there" in run("alias", "set", "ENV", "/x").err
    ran = run("alias", "add", "ENV", "/mine")
    assert ran.code == 0
    assert "but ALIASFS_ALIAS_ENV gives it another place" in ran.err


def test_running_mounts_are_told(run: Run, user_file: Path) -> None:
    backend = FakeBackend(config_files=[str(user_file)])
    with served(backend):
        ran = run("alias", "add", "NEW", "/new")
        assert (ran.code, ran.err) == (0, "the mount /mnt/aliases has taken the change up\n")
        run("alias", "add", "bad", "/new")
    assert backend.reloads == 1


def test_check_opens_the_places_and_exits_by_the_worst(run: Run, user_file: Path, home: Path) -> None:
    (home / "here").mkdir()
    (home / "here" / "file").write_bytes(b"x")
    user_file.write_text(f"aliases:\n  HERE: {home}/here\n  GONE: {home}/gone\n")
    fine = run("alias", "check", "HERE")
    assert fine.code == 0
    name, reachable, readable, credentials, round_trip, entries, problem = fine.out.rstrip("\n").split("\t")
    assert (name, reachable, readable, credentials, entries, problem) == ("HERE", "yes", "yes", "none needed", "1", "")
    assert round_trip.endswith(" ms")
    both = run("alias", "check", "--json")
    assert both.code == 66
    here, gone = json.loads(both.out)
    assert (here["exit"], gone["exit"]) == (0, 66)
    assert f"{home}/gone" in gone["error"]


def test_import_takes_over_what_it_can(run: Run, user_file: Path, home: Path) -> None:
    theirs = home / "3lc.yaml"
    theirs.write_text("aliases:\n  <MINE>: /m$x/\n  DATA: /elsewhere\n  bad: /x\n  LOST:\n    C:\\data\n")
    dry = run("alias", "import", "--from-3lc", theirs, "--dry-run")
    assert (dry.code, user_file.read_text()) == (65, FILE)
    assert [line.split("\t")[:2] for line in dry.out.splitlines()] == [
        ["DATA", "differs (--force replaces it)"],
        ["MINE", "skipped"],
        ["bad", "skipped"],
        ["LOST", "skipped"],
    ]
    theirs.write_text("aliases:\n  MINE: '/m$'\n")
    assert run("alias", "import", "--from-3lc", theirs).code == 0
    assert user_file.read_text() == FILE + "  MINE: /m$$\n"
    assert config.load().registry["MINE"].url == "/m$"
    again = run("alias", "import", "--from-3lc", theirs, "--json")
    assert json.loads(again.out)[0]["result"] == "unchanged"


def test_import_finds_3lcs_own_file(run: Run, user_file: Path, home: Path) -> None:
    assert "3LC has no configuration" in run("alias", "import", "--from-3lc").err
    theirs = home / ".config/3LC/config.yaml"
    theirs.parent.mkdir()
    theirs.write_text("aliases: {MINE: /m, DATA: /d}\n")
    assert run("alias", "import", "--from-3lc", "--force").code == 0
    assert [alias.url for alias in config.load().registry.values()] == ["/d", "s3://lake/x", "/m"]
    assert run("alias", "import").code == 2


def test_a_reader_that_goes_away_is_no_error(user_file: Path) -> None:
    many = "".join(f"  A{number}: /x/{number}\n" for number in range(3000))
    user_file.write_text(f"aliases:\n{many}")
    command = (
        f"'{sys.executable}' -c 'from aliasfs.cli import main; main()' alias list --config '{user_file}' | head -1"
    )
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr) == (f"A0\t/x/0\tro\t1\tfile\t{user_file}:2\n", "")


@pytest.mark.parametrize("command", ["list", "show", "add", "set", "remove", "check", "import"])
def test_every_command_explains_itself_with_an_example(run: Run, command: str) -> None:
    ran = run("alias", command, "--help")
    assert ran.code == 0
    assert f"aliasfs alias {command}" in ran.out
    assert "Examples" in ran.out
    assert "--config" in ran.out


def test_the_shell_completes_alias_names(user_file: Path) -> None:
    words = f"aliasfs alias show --config {user_file} L"
    environ = {**os.environ, "_ALIASFS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "5"}
    program = "import sys; sys.argv = ['aliasfs']; from aliasfs.cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=60)
    assert (ran.stdout.split(), ran.stderr) == (["LAKE"], "")
