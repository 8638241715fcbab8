"""`python -m aliasfs.demo`: the commands behind `./run mount` and `./run umount`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import trio

from aliasfs.demo.lifecycle import default_point, default_state, mount_demo, umount_demo
from aliasfs.demo.server import serve_while_mounted
from aliasfs.errors import AliasfsError, exit_code


def main() -> int:
    """Run one command; returns its exit code."""
    given = _parser().parse_args()
    try:
        if given.command == "serve":
            trio.run(serve_while_mounted, given.samples, given.point, given.port)
        elif given.command == "mount":
            mount_demo(given.point, given.state.absolute())
        else:
            umount_demo(given.point, given.state.absolute())
    except AliasfsError as exc:
        sys.stderr.write(f"aliasfs: {exc}\n")
        return exit_code(exc)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./run", description="The embedded sample data.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="mount | umount")
    for name, does in (("mount", "mount the sample data"), ("umount", "unmount it")):
        command = commands.add_parser(name, help=does, description=does, epilog=f"example: ./run {name} ~/tree")
        command.add_argument("point", metavar="POINT", type=Path, nargs="?", help=f"default: {default_point()}")
        command.add_argument(
            "--state", type=Path, default=default_state(), help="where data, configuration and cache are (%(default)s)"
        )
    serve = commands.add_parser("serve", description="The S3 server of the sample data, as 'mount' starts it.")
    serve.add_argument("samples", type=Path)
    serve.add_argument("point", type=Path)
    serve.add_argument("port", type=int)
    return parser


if __name__ == "__main__":
    sys.exit(main())
