"""The seams: anything of the right shape fits, and what the switchboard offers is what they need."""

from collections.abc import Callable
from functools import partial

from reasonchip_broker.ports import Admission, CapacityObserver, OutcomeObserver, Principals, Verdict
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import Code, PacketType, Role
from reasonchip_broker.testing.switchboard_driver import SwitchboardDriver


class Journal:
    """Admits what has an even first byte; keeps outcomes; knows who has capacity; calls everybody the same."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[bytes, bytes]] = []
        self.offers: list[tuple[str, ...]] = []

    def admit(self, cookie: bytes, verdict: Verdict) -> None:
        if cookie[0] % 2:
            verdict(Code.NOT_ALLOWED, "odd")
        else:
            verdict(None, "")

    def outcome(self, cookie: bytes, frame: bytes) -> None:
        self.outcomes.append((cookie, frame))

    def capacity(self, offer: tuple[str, ...]) -> None:
        self.offers.append(offer)

    def principal(self, role: Role, address: str) -> str:
        return f"{role.name} at {address}"


def seams(journal: Journal) -> tuple[Admission, OutcomeObserver, CapacityObserver, Principals]:
    """That this type-checks is the test: no base class is needed."""
    return journal, journal, journal, journal


def test_what_the_switchboard_offers_is_what_the_seams_take() -> None:
    journal = Journal()
    admission, outcomes, capacity, principals = seams(journal)
    driver = SwitchboardDriver(admits=True)
    driver.switchboard.effects.observe_outcomes = driver.switchboard.effects.observe_capacity = True
    client = driver.client(principal=principals.principal(Role.CLIENT, "here"))
    worker = driver.worker(2, ["a"])

    def verdict(cookie: bytes, number: int, code: Code | None, sentence: str) -> None:
        if code is None:
            driver.admit(cookie, number)
        else:
            driver.reject(cookie, code, sentence, number)

    even, odd = bytes([2] * 16), bytes([3] * 16)
    for cookie in (even, odd):
        driver.run(client, "a", cookie=cookie)
        decide: Callable[[bytes, Verdict], None] = admission.admit
        decide(cookie, partial(verdict, *driver.admissions.pop()))
    assert client.take_reply() == (Code.NOT_ALLOWED, "odd")
    assert worker.take_one(PacketType.RUN).cookie == even
    driver.result(worker, even)
    for outcome in driver.outcomes:
        outcomes.outcome(outcome.cookie, outcome.frame)
    for offer in driver.capacity:
        capacity.capacity(offer)
    assert [(cookie, decode(frame).code) for cookie, frame in journal.outcomes] == [(even, Code.OK)]
    assert journal.offers == [("a",)]
    assert client.peer.principal == "CLIENT at here"
