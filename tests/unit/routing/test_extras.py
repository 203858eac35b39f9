"""The further record of a job is made only for a job that needs it."""

from reasonchip_broker.protocol.codes import ENCODING_BYTES
from reasonchip_broker.routing.extras import Extras, Follower, Sender

from .making import make_peer
from .scenes import driven, inside


def test_a_new_record_says_that_nothing_has_happened() -> None:
    extras = Extras()
    assert (extras.followers, extras.children, extras.history, list(extras.senders)) == ([], {}, [], [])
    assert (extras.base, extras.progress, extras.inputs, extras.input_next) == (0, None, None, 1)
    assert not extras.attached
    assert not extras.after_break
    assert not extras.batched


def test_a_follower_stands_where_it_was_put() -> None:
    peer = make_peer()
    follower = Follower(peer, 3, 64)
    assert (follower.peer, follower.next, follower.credit) == (peer, 3, 64)
    assert Sender(peer).last == 0


def test_a_plain_job_has_none_from_its_run_to_its_end() -> None:
    driver = driven()
    client, worker = driver.client(), driver.worker()
    for encoding in ("json", ENCODING_BYTES, ENCODING_BYTES):
        cookie = driver.run(client, encoding=encoding, nonce=b"n", left_ms=60_000)
        route = inside(driver).routes[cookie]
        assert route.extras is None
        driver.result(worker, cookie)
        assert route.extras is None


def test_a_job_with_options_has_one_and_a_plain_one_that_somebody_follows_gets_one() -> None:
    driver = driven()
    client, other = driver.client(), driver.client()
    driver.worker(2)
    followed, plain = driver.run(client, follow=True), driver.run(client)
    routes = inside(driver).routes
    assert routes[followed].extras is not None
    driver.attach(other, plain)
    extras = routes[plain].extras
    assert extras is not None
    assert {follower.peer for follower in extras.followers} == {client.peer, other.peer}
