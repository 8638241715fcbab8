"""What kernels send first over a new FUSE mount, as it was recorded or as their headers have it."""

from __future__ import annotations

import struct

LINUX_6_18 = struct.pack("=IIQQIIIHHIIIII44x", 104, 26, 2, 0, 0, 0, 0, 0, 0, 7, 45, 131072, 0x73FFFFFB, 0x5FD)
"""FUSE 7.45, recorded 2026-11-21; the 44 bytes at the end are reserved."""

LINUX_6_1 = struct.pack("=IIQQIIIHHIIIII44x", 104, 26, 2, 0, 0, 0, 0, 0, 0, 7, 37, 131072, 0x73FFFFFB, 0x3D)
"""FUSE 7.37: flags2, and none of them RESEND."""

LINUX_5_4 = struct.pack("=IIQQIIIHHIIII", 56, 26, 2, 0, 0, 0, 0, 0, 0, 7, 31, 131072, 0x03FFFFFB)
"""FUSE 7.31, which has no flags2 (struct fuse_init_in of Linux 5.4)."""
