import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from aliasfs import config
from aliasfs.config import Config, MountSettings
from aliasfs.errors import AccessDenied, ConfigError
from aliasfs.registry import Engine, Mode, Tier
from aliasfs.units import Share

SECRET = "hunter2"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str, name: str = "config.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write_file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment whose user and system files lie in the test's directory."""
    monkeypatch.setattr(config, "SYSTEM_FILE", tmp_path / "etc" / "config.yaml")
    return {"HOME": str(tmp_path / "home")}


def problems(path: Path, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.load(path, environ={"HOME": "/home/me", **environ})
    return str(caught.value).splitlines()


def test_the_example_of_the_documentation_loads(write: Write) -> None:
    path = write(
        """
        aliases:
          PROJECT_DATA: /data/project
          COMPANY:
            url: s3://company-wide-bucket/project
            mode: rw
            options: {endpoint_url: http://10.0.0.5:9000, key: "${S3_KEY}", secret: "${S3_SECRET}", n: [1, "~/x"]}
            ttl: 5
            engine: obstore
        cache: {dir: /var/cache/aliasfs, size: 20GB, min_free: 5%}
        mount: {point: /mnt/aliases, allow_other: true, uid: 1000, file_mode: '0640', dir_mode: 0o750}
        daemon:
          {log_level: debug, request_timeout: 5, hang_timeout: 9, restart_limit: 3, read_memory: 1MiB, memory_max: 2GB}
        """
    )
    loaded = config.load(path, environ={"HOME": "/home/me", "S3_KEY": "k", "S3_SECRET": SECRET})
    local, remote = loaded.registry.values()
    assert (local.url, local.mode, local.ttl_s, local.engine) == ("/data/project", Mode.RO, 1, Engine.AUTO)
    assert (local.tier, local.origin) == (Tier.FILE, f"{path}:3")
    assert (remote.url, remote.mode, remote.ttl_s) == ("s3://company-wide-bucket/project", Mode.RW, 5)
    assert remote.options == {
        "endpoint_url": "http://10.0.0.5:9000",
        "key": "k",
        "secret": SECRET,
        "n": [1, "/home/me/x"],
    }
    assert loaded.cache.dir == Path("/var/cache/aliasfs")
    assert (loaded.cache.size, loaded.cache.min_free) == (20 * 10**9, Share(percent=5))
    assert loaded.cache.min_free_bytes(1000) == 50
    assert (loaded.mount.uid, loaded.mount.file_mode, loaded.mount.dir_mode) == (1000, 0o640, 0o750)
    assert (loaded.daemon.log_level, loaded.daemon.request_timeout_s, loaded.daemon.read_memory) == ("debug", 5, 2**20)
    assert (loaded.daemon.hang_timeout_s, loaded.daemon.restart_limit) == (9, 3)
    assert loaded.daemon.memory_max == 2 * 10**9
    assert loaded.files == (path,)
    assert loaded.edit_file == path
    assert SECRET not in repr(loaded)


def test_defaults_need_no_file(home: dict[str, str]) -> None:
    loaded = config.load(environ=home)
    assert not loaded.registry
    assert loaded.mount == MountSettings()
    assert (loaded.mount.point, loaded.cache.enabled, loaded.daemon.request_timeout_s) == (
        Path("/mnt/aliases"),
        True,
        25,
    )
    assert (loaded.daemon.hang_timeout_s, loaded.daemon.restart_limit, loaded.daemon.memory_max) == (30, 8, None)


def test_a_server_is_given_more_time_than_a_store_when_nothing_else_is_said(write: Write) -> None:
    assert config.load(write("daemon: {request_timeout: 60}"), environ={}).daemon.hang_timeout_s == 65


def test_remote_names_may_be_older_than_local_ones(write: Write) -> None:
    registry = config.load(write("aliases: {L: /x, R: 's3://b', Z: {url: /x, ttl: 0}}"), environ={}).registry
    assert [alias.ttl_s for alias in registry.values()] == [1, 60, 0]


def test_tiers_merge_per_alias_and_per_setting(home: dict[str, str], write: Write) -> None:
    write("aliases: {S: /s, SU: /s, SUE: /s, SUEC: /s}\ncache: {size: 1GB, min_free: 1GB}", "etc/config.yaml")
    user = write("aliases: {SU: /u, SUE: /u, SUEC: /u}\ncache: {size: 2GB}", "home/.config/aliasfs/config.yaml")
    environ = {**home, "ALIASFS_ALIAS_SUE": "/e", "ALIASFS_ALIAS_SUEC": "/e"}
    loaded = config.load(cli_aliases=["SUEC=/c"], environ=environ)
    assert {alias.name: (alias.url, alias.tier) for alias in loaded.registry.values()} == {
        "S": ("/s", Tier.SYSTEM),
        "SU": ("/u", Tier.USER),
        "SUE": ("/e", Tier.ENVIRONMENT),
        "SUEC": ("/c", Tier.COMMAND_LINE),
    }
    assert [alias.origin for alias in loaded.registry.values()][1:] == [f"{user}:1", "ALIASFS_ALIAS_SUE", "--alias"]
    assert (loaded.cache.size, loaded.cache.min_free) == (2 * 10**9, Share(size_bytes=10**9))
    assert loaded.files == (config.SYSTEM_FILE, user)
    assert loaded.edit_file == user


def test_a_named_file_is_read_alone(home: dict[str, str], write: Write) -> None:
    write("aliases: {S: /s}", "etc/config.yaml")
    write("aliases: {U: /u}", "home/.config/aliasfs/config.yaml")
    by_variable = write("aliases: {V: /v}", "variable.yaml")
    by_option = write("aliases: {O: /o}", "option.yaml")
    environ = {**home, config.CONFIG_VARIABLE: str(by_variable)}
    assert [*config.load(environ=environ).registry] == ["V"]
    assert [*config.load(by_option, environ=environ).registry] == ["O"]


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        config.load(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="there is no such file"):
        config.load(environ={config.CONFIG_VARIABLE: str(tmp_path / "absent.yaml")})


def unreadable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let *path* be somebody else's; root, whom nothing stops, may run these tests."""
    read_bytes = Path.read_bytes

    def refuse(self: Path) -> bytes:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)


def test_a_system_file_that_is_private_is_left_out(
    home: dict[str, str], write: Write, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unreadable(write("aliases: {S: /s}", "etc/config.yaml"), monkeypatch)
    write("aliases: {U: /u}", "home/.config/aliasfs/config.yaml")
    assert [*config.load(environ=home).registry] == ["U"]
    assert "this user may not read it" in caplog.text


def test_a_named_file_that_is_private_is_an_error(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("aliases: {S: /s}")
    unreadable(path, monkeypatch)
    with pytest.raises(AccessDenied, match="this user may not read it; run this as its owner, or with sudo"):
        config.load(path)


def test_xdg_directories_are_honoured(home: dict[str, str], write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    path = write("aliases: {X: /x}", "xdg/aliasfs/config.yaml")
    environ = {**home, "XDG_CONFIG_HOME": str(path.parent.parent), "XDG_CACHE_HOME": "/xc"}
    loaded = config.load(environ=environ)
    assert [*loaded.registry] == ["X"]
    assert loaded.cache.dir == Path("/xc/aliasfs")
    ignored = config.load(environ={**home, "XDG_CONFIG_HOME": "relative", "XDG_CACHE_HOME": "relative"})
    assert ignored.cache.dir == Path(home["HOME"], ".cache/aliasfs")
    assert not ignored.registry


def test_root_edits_the_system_file_unless_it_has_one_of_its_own(
    home: dict[str, str], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert config.load(environ=home).edit_file == config.SYSTEM_FILE
    assert config.load(environ=home).cache.dir == Path("/var/cache/aliasfs")
    user = write("aliases:", "home/.config/aliasfs/config.yaml")
    assert config.load(environ=home).edit_file == user


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("cahce: {}", "unknown section 'cahce'; did you mean 'cache'?"),
        ("aliases: [A]", "'aliases' must be a mapping, with one 'name: value' per line below it"),
        ("aliases: {data: /x}", "'data' is no alias name: .*; did you mean DATA?"),
        ("aliases: {<DATA>: /x}", "'<DATA>' is no alias name: .*; did you mean DATA?"),
        ("aliases: {1: /x}", "1 is no alias name"),
        ("aliases: {A: 5}", "alias A must be a path, a URL, or a mapping that holds 'url:'"),
        ("aliases: {A: [/x]}", "alias A must be a path"),
        ("aliases: {A: }", "alias A must be a path"),
        ("aliases: {A: ''}", "alias A: the path is empty"),
        ("aliases: {A: data}", "alias A: 'data' is a relative path; write it absolute, as in "),
        ("aliases: {A: <B>/x}", "alias A: the path holds the alias token <B>"),
        ("aliases: {A: {mode: ro}}", "alias A has no 'url:'"),
        ("aliases: {A: {url: /x, mdoe: ro}}", "unknown key 'mdoe' in aliases.A; did you mean 'mode'?"),
        ("aliases: {A: {url: /x, zz: 1}}", "unknown key 'zz' in aliases.A; the keys known here are url, mode,"),
        ("aliases: {A: {url: /x, mode: x}}", "aliases.A.mode should be 'ro' or 'rw'"),
        ("aliases: {A: {url: /x, ttl: -1}}", "aliases.A.ttl should be greater than or equal to 0"),
        ("aliases: {A: {url: /x, ttl: soon}}", "aliases.A.ttl should be a valid number"),
        ("aliases: {A: {url: /x, ttl: .inf}}", "aliases.A.ttl should be a finite number"),
        ("aliases: {A: {url: /x, engine: s3}}", "aliases.A.engine should be 'auto', 'obstore' or 'fsspec'"),
        ("aliases: {A: {url: /x, options: 5}}", "aliases.A.options should be a valid dictionary"),
        ("aliases: {A: {url: 5}}", "aliases.A.url should be a valid string"),
        ("aliases: {A: '${NOPE}/x'}", "aliases.A.url uses .*environment variable NOPE is not set"),
        ("aliases: {A: {url: /x, options: {k: '${NOPE}'}}}", "aliases.A.options.k uses .*variable NOPE is not set"),
        ("cache: {size: 5 apples}", "cache.size is no size; write"),
        ("cache: {min_free: 120%}", "cache.min_free is no share of a disk; write"),
        ("cache: {dir: relative}", "cache.dir is no directory: 'relative' is a relative path"),
        ("cache: {dir: 's3://b/x'}", "cache.dir is a URL; write the absolute path"),
        ("cache: {enabled: perhaps}", "cache.enabled should be a valid boolean"),
        ("cache: {sizes: 1}", "unknown key 'sizes' in cache; did you mean 'size'?"),
        ("mount: {file_mode: 0644}", "mount.file_mode is not octal; write '0644' in quotes, or 0o644"),
        ("mount: {dir_mode: '0999'}", "mount.dir_mode is no permission mode"),
        ("mount: {uid: -1}", "mount.uid should be greater than or equal to 0"),
        ("mount: true", "'mount' must be a mapping"),
        ("daemon: {log_level: loud}", "daemon.log_level should be 'debug', 'info', 'warning' or 'error'"),
        ("daemon: {request_timeout: 0}", "daemon.request_timeout should be greater than 0"),
        ("daemon: {hang_timeout: 25}", "daemon.hang_timeout must be longer than daemon.request_timeout, which is 25 s"),
        ("daemon: {request_timeout: 9, hang_timeout: 8}", "daemon.hang_timeout must be longer .* which is 9 s"),
        ("daemon: {hang_timeout: never}", "daemon.hang_timeout should be a valid number"),
        ("daemon: {restart_limit: 0}", "daemon.restart_limit should be greater than or equal to 1"),
        ("daemon: {memory_max: lots}", "daemon.memory_max is no size; write"),
        (
            "daemon: {request_timeout_s: 1}",
            "unknown key 'request_timeout_s' in daemon; did you mean 'request_timeout'?",
        ),
    ],
)
def test_each_mistake_is_one_sentence_with_its_place(write: Write, line: str, sentence: str) -> None:
    path = write(f"# first line\n{line}\n")
    (problem,) = problems(path)
    assert problem.startswith(f"{path}:2: ")
    assert re.search(sentence.replace("?", r"\?").replace("(", r"\("), problem)


def test_all_problems_are_told_at_once_each_with_its_line(write: Write) -> None:
    path = write(
        """\
        aliases:
          bad: /x
          A: relative
          B:
            url: /b
            tll: 5
        cache:
          size: much
        """
    )
    places = [problem.split(": ")[0] for problem in problems(path, ALIASFS_ALIAS_x="/x")]
    assert places == [f"{path}:2", f"{path}:3", f"{path}:6", "environment variable ALIASFS_ALIAS_x", f"{path}:8"]


@pytest.mark.parametrize(
    "line",
    [
        f"aliases: {{A: 's3://key:{SECRET}@b/x'}}",
        f"aliases: {{A: 'https://h/x?sig={SECRET}'}}",
        f"aliases: {{A: {{url: 's3://b', options: {SECRET}}}}}",
        f"aliases: {{A: {{url: 's3://b', options: {{key: {SECRET}}}, ttl: -1}}}}",
        f"aliases: {{A: {{url: 's3://b', options: {{secret: '${{NOPE}}{SECRET}'}}}}}}",
        f"aliases: {{A: {{url: 's3://b', options: {{secret: '${{{SECRET}-}}'}}}}}}",
        f"aliases: {{A: {{url: 's3://b', options: [{SECRET}]}}}}",
        "aliases: {A: '${LEAK}'}",
    ],
)
def test_no_message_repeats_a_secret(write: Write, line: str) -> None:
    for problem in problems(write(line), LEAK=f"s3://key:{SECRET}@b/x"):
        assert SECRET not in problem


@pytest.mark.parametrize("name", ["lower", "1X", "DATAset", "A-B", "", "A "])
def test_a_malformed_variable_is_an_error_that_names_it(home: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigError, match=f"environment variable ALIASFS_ALIAS_{name}: .* is no alias name"):
        config.load(environ={**home, f"ALIASFS_ALIAS_{name}": "/x"})


@pytest.mark.parametrize("value", ["", "relative", "<B>/x", "${NOPE}"])
def test_a_bad_value_of_a_variable_is_an_error_that_names_it(home: dict[str, str], value: str) -> None:
    with pytest.raises(ConfigError, match="ALIASFS_ALIAS_A"):
        config.load(environ={**home, "ALIASFS_ALIAS_A": value})


@pytest.mark.parametrize("pair", ["A", "a=/x", "A=", "A=relative"])
def test_a_bad_alias_on_the_command_line_is_an_error(home: dict[str, str], pair: str) -> None:
    with pytest.raises(ConfigError, match="--alias"):
        config.load(cli_aliases=[pair], environ=home)


def test_an_edit_is_checked_within_the_whole_configuration(home: dict[str, str], write: Write) -> None:
    user = write("aliases: {A: /x}", "home/.config/aliasfs/config.yaml")
    config.check_edit(user, "aliases: {A: /y}", config_file=None, environ=home)
    with pytest.raises(ConfigError, match="alias A: 'y' is a relative path"):
        config.check_edit(user, "aliases: {A: y}", config_file=None, environ=home)


def test_configurations_are_immutable(home: dict[str, str]) -> None:
    loaded: Config = config.load(environ=home)
    with pytest.raises(ValueError, match="frozen"):
        loaded.cache.size = 1
