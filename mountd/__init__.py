"""mountd: the daemon behind one mount.

kernel --> ops ----+
                   +--> vfs --> catalog (names) ----------+--> store
CLI --> control ---+      \\--> readahead --> blocks (bytes) +
"""
