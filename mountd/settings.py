"""What one daemon was told: the configuration, and what its command line adds; handed to each room in part."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aliasfs import config
from aliasfs.config import Config, MountSettings
from mountd.volumes import VfsSettings


@dataclass(frozen=True)
class ServeOptions:
    """The command line of `python -m mountd serve`. *point* is where to mount, None for the configured place."""

    point: Path
    config_file: Path | None = None
    aliases: Sequence[str] = ()
    allow_other: bool = False
    foreground: bool = False

    def load(self) -> Config:
        """Return the configuration as it is on disk now; blocks. Raises ConfigError."""
        return config.load(self.config_file, cli_aliases=self.aliases)


def vfs_settings(mount: MountSettings) -> VfsSettings:
    """Return how object stores look: owned by the daemon's user and read-only, unless configured otherwise."""
    return VfsSettings(
        uid=os.geteuid() if mount.uid is None else mount.uid,
        gid=os.getegid() if mount.gid is None else mount.gid,
        file_mode=VfsSettings.file_mode if mount.file_mode is None else mount.file_mode,
        dir_mode=VfsSettings.dir_mode if mount.dir_mode is None else mount.dir_mode,
    )
