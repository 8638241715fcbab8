"""The control door: HTTP on a Unix socket, for the command line and for whoever scrapes metrics.

An adapter: decode, one call on `Backend`, encode. It decides nothing and keeps nothing. `serve_control`
runs it; `Backend` is what the daemon has to offer.
"""

from mountd.control.backend import Backend
from mountd.control.server import serve_control

__all__ = ["Backend", "serve_control"]
