"""aliasfs: named places for data, and everything teams share on top of them.

This package is the library and the command line; it knows nothing of FUSE. The daemon that mounts the
aliases is `mountd`, which imports this package and never the other way round.
"""

__version__ = "0.1.0"
