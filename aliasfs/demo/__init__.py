"""The embedded default: a small data set, mounted from its directory and again through an S3 server of its own.

It needs no account and no network beyond loopback, and leaves the configuration of the user alone: all it
writes lies in one state directory. `./run mount` and `./run umount` are its doors.
"""
