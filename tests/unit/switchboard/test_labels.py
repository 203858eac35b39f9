"""Labels: which workers a job may go to, which it would rather, and what is said when there is none."""

import pytest

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import ENCODING_BYTES, ENCODING_JSON, Code, Dialect, PacketType
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver
from tests.unit.routing.scenes import inside

H200, A100, EU = {"gpu": "h200"}, {"gpu": "a100"}, {"region": "eu"}


def labelled(driver: SwitchboardDriver, capacity: int = 1, **labels: str) -> FakeLink:
    """A worker with labels."""
    return driver.worker(capacity, labels=labels)


def run(driver: SwitchboardDriver, client: FakeLink, encoding: str = ENCODING_BYTES, **options: object) -> bytes:
    cookie = driver.new_cookie()
    meta = schemas.encode_meta(schemas.RunOptions(p="p", enc=encoding, **options))  # type: ignore[arg-type]
    driver.send(client, packets.run(cookie, meta, b"1"))
    return cookie


def ran(link: FakeLink) -> list[bytes]:
    return [packet.cookie for packet in link.take_kinds(PacketType.RUN)]


@pytest.mark.parametrize("times", [1, 2], ids=["the first time", "once its options are known"])
def test_a_job_goes_only_to_a_worker_that_has_all_labels_that_it_needs(times: int) -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    workers = [labelled(driver, 5), labelled(driver, 5, gpu="a100"), labelled(driver, 5, gpu="h200")]
    both = labelled(driver, 5, gpu="h200", region="eu")
    cookies = [run(driver, client, need={**H200, **EU}) for _ in range(times)]
    assert ran(both) == cookies
    assert [ran(worker) for worker in workers] == [[], [], []]


def test_a_job_without_labels_goes_to_any_worker() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), labelled(driver, gpu="h200")
    assert [run(driver, client)] == ran(worker)


def test_the_order_in_which_labels_are_said_makes_no_difference() -> None:
    driver = SwitchboardDriver()
    client, worker = driver.client(), labelled(driver, 2, region="eu", gpu="h200")
    cookies = [run(driver, client, need={**H200, **EU}), run(driver, client, need={**EU, **H200})]
    assert ran(worker) == cookies
    assert len(inside(driver).backlog._classes) == 1
    other = labelled(driver, 2, gpu="h200", region="eu")
    assert other.peer.worker is not None
    assert worker.peer.worker is not None
    assert other.peer.worker.pool is worker.peer.worker.pool


def test_a_job_waits_for_a_worker_that_has_what_it_needs_and_status_says_so() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    labelled(driver, gpu="a100")
    cookie = run(driver, client, need=H200)
    sentence = "no connected worker that has gpu=h200 serves this pipeline"
    assert client.take_reply() == (Code.QUEUED, f"{sentence} yet")
    driver.send(client, packets.status(cookie))
    assert client.take_reply() == (Code.OK, sentence)
    assert ran(labelled(driver)) == []
    assert ran(labelled(driver, gpu="h200")) == [cookie]
    driver.switchboard.invariants()


def test_a_job_that_is_only_for_those_who_serve_it_is_refused_at_once_where_nobody_does() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    run(driver, client, served=True)
    assert client.take_reply() == (Code.NOT_SERVED, "no connected worker serves this pipeline")
    worker = labelled(driver, gpu="a100")
    run(driver, client, served=True, need=H200)
    assert client.take_reply() == (Code.NOT_SERVED, "no connected worker that has gpu=h200 serves this pipeline")
    cookies = [run(driver, client, served=True) for _ in range(2)]
    assert ran(worker) == cookies[:1]
    assert client.take_reply()[0] is Code.QUEUED, "somebody serves it, and is busy"


def test_existing_workers_have_no_labels() -> None:
    driver = SwitchboardDriver()
    client, existing = driver.client(), driver.worker(2, dialect=Dialect.JSON)
    run(driver, client, ENCODING_JSON, need=H200)
    assert client.take_reply()[0] is Code.QUEUED
    run(driver, client, ENCODING_JSON, like=H200)
    assert len(existing.take_json()) == 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_worker_with_the_most_labels_that_are_liked_goes_first_while_it_has_a_slot(order: tuple[int, ...]) -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    offers: list[tuple[int, dict[str, str]]] = [(9, {}), (2, H200), (1, {**H200, **EU})]
    links = {place: labelled(driver, offers[place][0], **offers[place][1]) for place in order}
    plain, one, two = (links[place] for place in range(3))
    cookies = [run(driver, client, like={**H200, **EU}) for _ in range(5)]
    assert [ran(link) for link in (two, one, plain)] == [cookies[:1], cookies[1:3], cookies[3:]]


def test_the_least_loaded_goes_first_among_those_that_are_liked_as_much() -> None:
    driver = SwitchboardDriver()
    client = driver.client()
    workers = [labelled(driver, 4, gpu="h200"), labelled(driver, 4, gpu="h200", region="us")]
    for _ in range(6):
        run(driver, client, like=H200)
    assert [len(ran(worker)) for worker in workers] == [3, 3]
    driver.switchboard.invariants()
