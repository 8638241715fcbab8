"""`aliasfs alias add|set|remove|import`: change the configuration file, and tell running mounts.

A change is checked as part of the whole configuration before it is saved, so that a refused one leaves
the file as it was. Each alias is edited in the file that defines it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aliasfs.cli import output
from aliasfs.cli.masking import may_be_secret
from aliasfs.cli.options import AliasArgument, ConfigOption, JsonOption, complete_alias, examples
from aliasfs.errors import AlreadyExists, ConfigError, UnknownAlias
from aliasfs.registry import ALIAS_NAME, Engine, Mode

if TYPE_CHECKING:
    from aliasfs.threelc import Found
    from aliasfs.yamlfile import Document, Editor

_ADDED, _REPLACED, _DIFFERS = "added", "replaced", "differs (--force replaces it)"

UrlArgument = Annotated[str, typer.Argument(metavar="URL", help="An absolute path, or a URL.", show_default=False)]
ModeOption = Annotated[Mode | None, typer.Option("--mode", help="What a mount may do with it; ro when never set.")]
TtlOption = Annotated[
    float | None,
    typer.Option("--ttl", metavar="SECONDS", min=0, help="How old a name or size may be; 60 for remote, 1 for local."),
]
EngineOption = Annotated[Engine | None, typer.Option("--engine", help="Which library carries the bytes.")]
OptionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        metavar="KEY=VALUE",
        help="fsspec storage option, repeatable; a dot goes deeper, as in client_kwargs.region_name=eu-west-1.",
    ),
]


def register(group: typer.Typer) -> None:
    """Add the changing commands to *group*."""
    group.command(
        "add",
        epilog=examples(
            "aliasfs alias add PROJECT_DATA /data/project",
            "aliasfs alias add COMPANY s3://bucket/project -o profile=work",
            "aliasfs alias add LAKE s3://lake/x -o key='${S3_KEY}' -o secret='${S3_SECRET}'",
        ),
    )(add_alias)
    group.command(
        "set", epilog=examples("aliasfs alias set COMPANY --ttl 5", "aliasfs alias set COMPANY s3://other/x")
    )(set_alias)
    group.command("remove", epilog=examples("aliasfs alias remove COMPANY"))(remove_alias)
    group.command(
        "import",
        epilog=examples("aliasfs alias import --from-3lc --dry-run", "aliasfs alias import --from-3lc FILE"),
    )(import_aliases)


def add_alias(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Capital letters, digits and '_'.", show_default=False)],
    url: UrlArgument,
    mode: ModeOption = None,
    ttl: TtlOption = None,
    engine: EngineOption = None,
    option: OptionOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the alias if there is one of that name.")] = False,
    config: ConfigOption = None,
) -> None:
    """Add an alias; running mounts show it at once."""
    from aliasfs import config as configuration

    if not ALIAS_NAME.fullmatch(name):
        raise ConfigError(configuration.name_problem(name))
    _check_url(url)
    file = configuration.find_files(config).edit_file
    options = _options(option)
    entry = {"url": url.strip()} | _policy(mode, ttl, engine)
    for keys, value in options.items():
        _put_nested(entry, ("options", *keys), value)

    def change(editor: Editor) -> None:
        if name in _aliases(editor) and not force:
            raise AlreadyExists(
                f"{name} is configured in {file} already; change it with 'aliasfs alias set {name}', or add --force"
            )
        editor.put(("aliases", name), entry["url"] if entry.keys() == {"url"} else entry)

    _save(file, change, config)
    _note_clear_secrets(options, file)
    winner = configuration.load(config).registry[name]
    if not winner.origin.startswith(f"{file}:"):
        output.note(f"{name} is saved in {file}, but {winner.origin} gives it another place, which goes first")


def set_alias(
    name: AliasArgument,
    url: Annotated[str | None, typer.Argument(metavar="URL", help="The new place.", show_default=False)] = None,
    mode: ModeOption = None,
    ttl: TtlOption = None,
    engine: EngineOption = None,
    option: OptionOption = None,
    unset: Annotated[
        list[str] | None, typer.Option("--unset", metavar="KEY", help="Storage option to take out, repeatable.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Change an alias in the file that defines it; running mounts follow at once."""
    if url is not None:
        _check_url(url)
    file = _defining_file(name, config)
    options = _options(option)
    changes = ({} if url is None else {"url": url.strip()}) | _policy(mode, ttl, engine)
    if not (changes or options or unset):
        raise typer.BadParameter("say what to change: a URL, --mode, --ttl, --engine, --option or --unset")

    def change(editor: Editor) -> None:
        here = ("aliases", name)
        entry = _aliases(editor)[name]
        if not isinstance(entry, Mapping) and not (changes.keys() == {"url"} and not options):
            editor.put(here, {"url": entry})
        elif not isinstance(entry, Mapping):
            editor.put(here, changes["url"])
            return
        for key, value in changes.items():
            editor.put((*here, key), value)
        for keys, value in options.items():
            editor.put((*here, "options", *keys), value)
        for key in unset or ():
            try:
                editor.drop((*here, "options", *key.split(".")))
            except KeyError:
                raise ConfigError(
                    f"{name} has no option {key}; 'aliasfs alias show {name}' lists those it has"
                ) from None

    _save(file, change, config)
    _note_clear_secrets(options, file)


def remove_alias(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME", autocompletion=complete_alias, help="Aliases to remove.", show_default=False),
    ],
    config: ConfigOption = None,
) -> None:
    """Remove aliases from the files that define them; running mounts stop showing them at once."""
    by_file: dict[Path, list[str]] = {}
    for name in dict.fromkeys(names):
        by_file.setdefault(_defining_file(name, config), []).append(name)
    for file, of_file in by_file.items():

        def change(editor: Editor, of_file: list[str] = of_file) -> None:
            for name in of_file:
                editor.drop(("aliases", name))

        _save(file, change, config)


def import_aliases(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="3LC's file; where 3LC itself looks when left out.", show_default=False),
    ] = None,
    from_3lc: Annotated[bool, typer.Option("--from-3lc", help="Take over the aliases of 3LC.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace aliases that point elsewhere.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take over aliases from 3LC's files; the exit code is 65 when one could not be taken."""
    from aliasfs import config as configuration
    from aliasfs import threelc, yamlfile

    if not from_3lc:
        raise typer.BadParameter("say what to import from: --from-3lc")
    source = threelc.read_aliases(file)
    edit_file = configuration.find_files(config).edit_file
    present = _aliases(yamlfile.read(edit_file, missing_ok=True))
    outcomes = {found.name: _outcome(found, present, force=force) for found in source.found}
    wanted = [found for found in source.found if outcomes[found.name] in (_ADDED, _REPLACED)]

    def change(editor: Editor) -> None:
        for found in wanted:
            editor.put(("aliases", found.name), _literal(found.url))

    if wanted and not dry_run:
        _save(edit_file, change, config)
    rows = [(found.name, outcomes[found.name], found.url, found.origin) for found in source.found]
    rows += [(skipped.name, "skipped", skipped.reason, skipped.origin) for skipped in source.skipped]
    columns = ("name", "result", "detail", "from")
    if as_json:
        output.print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        output.print_table([column.upper() for column in columns], rows)
    left_out = any(skipped.is_unusable for skipped in source.skipped) or _DIFFERS in outcomes.values()
    raise typer.Exit(65 if left_out else 0)  # EX_DATAERR of sysexits.h


def _outcome(found: Found, present: Mapping[str, Any], *, force: bool) -> str:
    if found.name not in present:
        return _ADDED
    if present[found.name] == _literal(found.url):
        return "unchanged"
    return _REPLACED if force else _DIFFERS


def _literal(url: str) -> str:
    """Return *url* as the configuration file has to spell it: there a dollar may begin a variable."""
    return url.replace("$", "$$")


def _policy(mode: Mode | None, ttl: float | None, engine: Engine | None) -> dict[str, Any]:
    """Return the fields that were given, as the file spells them."""
    seconds = int(ttl) if ttl is not None and ttl.is_integer() else ttl
    given = {"mode": mode and mode.value, "ttl": seconds, "engine": engine and engine.value}
    return {key: value for key, value in given.items() if value is not None}


def _options(pairs: list[str] | None) -> dict[tuple[str, ...], Any]:
    """Return the storage options of *pairs* by the path of their dotted names."""
    options: dict[tuple[str, ...], Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not all(name.split(".")):
            raise typer.BadParameter("an option is written KEY=VALUE, as in --option endpoint_url=http://10.0.0.5:9000")
        options[tuple(name.split("."))] = text if may_be_secret(name) else _typed(text)
    return options


def _typed(text: str) -> Any:
    """Return the number, truth value or structure that *text* is as JSON, else *text* itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _put_nested(mapping: dict[str, Any], keys: tuple[str, ...], value: object) -> None:
    for key in keys[:-1]:
        mapping = mapping.setdefault(key, {})
    mapping[keys[-1]] = value


def _aliases(document: Editor | Document) -> Mapping[str, Any]:
    aliases = document.content.get("aliases")
    return aliases if isinstance(aliases, Mapping) else {}


def _check_url(url: str) -> None:
    """Raise ConfigError when *url* cannot be the place of an alias, with a suggestion made for this directory."""
    from aliasfs.units import expand
    from aliasfs.urls import canonical

    try:
        canonical(expand(url, os.environ, os.path.expanduser("~")), base=os.getcwd())
    except ValueError as exc:
        raise ConfigError(f"the URL {exc}") from None


def _defining_file(name: str, config: Path | None) -> Path:
    """Return the file of the highest tier that configures *name*."""
    from aliasfs import config as configuration
    from aliasfs import yamlfile

    files = configuration.find_files(config)
    for _, path in reversed(files.tiers):
        if name in _aliases(yamlfile.read(path, missing_ok=not files.required)):
            return path
    variable = f"{configuration.ALIAS_VARIABLE_PREFIX}{name}"
    if variable in os.environ:
        raise ConfigError(f"{name} comes from the environment variable {variable}; change it there")
    raise UnknownAlias(f"no alias is named {name}; 'aliasfs alias list' shows those that are")


def _save(file: Path, change: Callable[[Editor], None], config: Path | None) -> None:
    """Apply *change* to *file* if the configuration still loads with it, then tell running mounts."""
    from aliasfs import config as configuration
    from aliasfs import yamlfile
    from aliasfs.client import reload_daemons

    yamlfile.edit(file, change, lambda path, text: configuration.check_edit(path, text, config_file=config))
    for point in reload_daemons([file]):
        output.note(f"the mount {point} has taken the change up")


def _note_clear_secrets(options: Mapping[tuple[str, ...], Any], file: Path) -> None:
    for keys, value in options.items():
        name = ".".join(keys)
        if may_be_secret(name) and isinstance(value, str) and "${" not in value:
            output.note(
                f"the value of {name} now stands in {file}; to keep it out, write {name}='${{VARIABLE}}' in its place"
            )
