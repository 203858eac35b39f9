"""Things reach the other loop in order, each once, with few wake-ups."""

import asyncio
import threading

from reasonchip_broker.worker.mailbox import Mailbox
from tests.unit.worker.harness import soon


async def test_things_of_many_threads_arrive_each_once_and_in_each_threads_order() -> None:
    taken: list[tuple[int, int]] = []
    done = asyncio.Event()

    def take(item: tuple[int, int]) -> None:
        taken.append(item)
        if len(taken) == 4000:
            done.set()

    mailbox: Mailbox[tuple[int, int]] = Mailbox(asyncio.get_running_loop(), take)

    def put(writer: int) -> None:
        for number in range(1000):
            mailbox.put((writer, number))

    threads = [threading.Thread(target=put, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    await soon(done.wait())
    for thread in threads:
        thread.join()
    for writer in range(4):
        assert [number for who, number in taken if who == writer] == list(range(1000))


async def test_a_batch_wakes_the_loop_once(monkeypatch) -> None:
    taken: list[int] = []
    loop = asyncio.get_running_loop()
    mailbox = Mailbox(loop, taken.append)
    wakes = 0
    original = loop.call_soon_threadsafe

    def count(*args, **kwargs):
        nonlocal wakes
        wakes += 1
        return original(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    for number in range(100):
        mailbox.put(number)
    await asyncio.sleep(0)
    assert taken == list(range(100))
    assert wakes == 1
    mailbox.put(100)
    await asyncio.sleep(0)
    assert taken[-1] == 100
    assert wakes == 2


def test_what_is_put_for_a_closed_loop_is_let_go() -> None:
    loop = asyncio.new_event_loop()
    mailbox: Mailbox[str] = Mailbox(loop, lambda item: None)
    loop.close()
    for item in ("too late", "again", "and again"):
        mailbox.put(item)
        assert not mailbox._items
