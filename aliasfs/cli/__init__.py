"""The command line; `main` is the entry point `aliasfs`.

One module per group of commands; each has `register(app)`. What a command needs beyond the standard
library and the configuration it imports when it runs, so that `--help` and completion stay quick.
"""

from __future__ import annotations

import os
import sys

from aliasfs.errors import AliasfsError, exit_code

__all__ = ["main"]


def main() -> None:
    """Run the command line and end the process with its exit code.

    An AliasfsError becomes its sentences on stderr, each behind `aliasfs: `, and its code of sysexits.h;
    an interrupt becomes 130, a reader that went away (`aliasfs ls | head`) a quiet end.
    """
    from aliasfs.cli.app import build

    try:
        try:
            build()()
        finally:
            sys.stdout.flush()
    except AliasfsError as exc:
        for line in str(exc).splitlines():
            print(f"aliasfs: {line}", file=sys.stderr)  # noqa: T201
        sys.exit(exit_code(exc))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The interpreter flushes once more when it ends; give it something that takes the bytes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # 128 + SIGPIPE, as a shell reports it
