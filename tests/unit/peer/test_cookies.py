"""Cookies: of sixteen bytes, made many at a time, and no two alike."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from reasonchip_broker.peer import cookies
from reasonchip_broker.peer.cookies import AT_ONCE, COOKIE_BYTES, new_cookie

FORKS = """
import os, sys
from reasonchip_broker.peer.cookies import new_cookie
new_cookie()
if os.fork() == 0:
    sys.stdout.buffer.write(b"".join(new_cookie() for _ in range(100)))
    sys.stdout.flush()
    os._exit(0)
os.wait()
sys.stdout.buffer.write(b"".join(new_cookie() for _ in range(100)))
"""


def test_no_two_are_alike() -> None:
    made = [new_cookie() for _ in range(10 * AT_ONCE)]
    assert len(set(made)) == len(made)
    assert {len(cookie) for cookie in made} == {COOKIE_BYTES}


def test_none_is_given_to_two_threads() -> None:
    with ThreadPoolExecutor(8) as threads:
        made = [cookie for many in threads.map(lambda _: [new_cookie() for _ in range(500)], range(16)) for cookie in many]
    assert len(set(made)) == len(made)


def test_chance_is_asked_for_many_at_once(monkeypatch) -> None:
    asked: list[int] = []
    chance = os.urandom

    def urandom(size: int) -> bytes:
        asked.append(size)
        return chance(size)

    monkeypatch.setattr("os.urandom", urandom)
    monkeypatch.setattr(cookies, "_ready", [])
    for _ in range(2 * AT_ONCE):
        new_cookie()
    assert asked == [AT_ONCE * COOKIE_BYTES] * 2


def test_a_forked_child_has_cookies_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, check=True, timeout=30)
    made = [done.stdout[start : start + COOKIE_BYTES] for start in range(0, len(done.stdout), COOKIE_BYTES)]
    assert len(made) == 200
    assert len(set(made)) == 200
