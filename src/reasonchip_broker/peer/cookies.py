"""Cookies: the random names of jobs, sixteen bytes each.

Chance comes from the kernel, and a call of it costs as much for one cookie as for many: so many are made at once.
"""

import os

COOKIE_BYTES = 16
AT_ONCE = 64

_ready: list[bytes] = []


def new_cookie() -> bytes:
    """A cookie that no other job has. From any thread."""
    try:
        return _ready.pop()
    except IndexError:
        chance = os.urandom(COOKIE_BYTES * AT_ONCE)
        _ready.extend([chance[start : start + COOKIE_BYTES] for start in range(COOKIE_BYTES, len(chance), COOKIE_BYTES)])
        return chance[:COOKIE_BYTES]


if hasattr(os, "register_at_fork"):
    # A child process would name its jobs as its parent names its own.
    os.register_at_fork(after_in_child=_ready.clear)
