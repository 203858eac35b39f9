"""`python -m benchmarks.fairness`: how long a newcomer waits behind 100,000 jobs of another, and how weights become slot-time.

The switchboard alone is driven, without sockets and on a virtual clock: so the figures are exact, the same on every machine and each
time, and hours of queueing take seconds. Two scenes:

- **The newcomer.** One client has queued a great many jobs of one second, other active keys have more than they can have run, and all
  slots are taken. Newcomers come, one after the other; another one stays, and sends its next job as soon as the last one has started.
- **The weights.** Two keys of weights 3 and 1 have more jobs, of very mixed length, than there are slots. How much slot-time has each?

Exit code 1: a goal was missed, and stderr says which."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from statistics import median

from rich.console import Console
from rich.table import Table

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import ENCODING_BYTES, PacketType
from reasonchip_broker.scheduling import Scheduling
from reasonchip_broker.testing.switchboard_driver import FakeLink, SwitchboardDriver

LIMITS = Limits(heartbeat_s=1e6, lease_s=2e6, client_jobs_max=1_000_000, backlog_jobs_max=1_000_000)
EXIT_MISSED = 1

SLOTS = 4
"""Of the newcomer's scene. They are set free in turn, one each quarter of a second."""
QUEUED = 100_000
ACTIVE = (1, 2, 5, 10, 20, 50, 100)
"""So many keys are active when the newcomer comes, the one with the many jobs among them: a row for each."""
NEWCOMERS = 20
JOBS_OF_WHO_STAYS = 50
JOBS_ENOUGH = 300
"""So many jobs the other active keys have each: more than are run until the end."""
STORY_ACTIVE = 4
STORY_S = (5.0, 15.0)
"""What is told job by job: so many seconds before the newcomer comes, and after."""

WEIGHT = 3.0
TOLERANCE = 0.05
"""So far from the weights' ratio that of the slot-time may be after `JOBS` jobs."""
WEIGHT_SLOTS = 8
JOBS = 1_000
SEEDS = 20
STEP = 10
"""After each so many jobs the ratio is noted."""


class Missed(Exception):
    """A goal was missed. Its text says which one, and by how much."""


class Scene:
    """A switchboard, workers of one slot each that are always busy, and a clock that goes from one job's end to the next one's."""

    def __init__(self, slots: int, scheduling: Scheduling | None = None) -> None:
        self.driver = SwitchboardDriver(LIMITS, checks=False, scheduling=scheduling)
        self.slots = slots
        self.starts: list[tuple[float, str]] = []
        """When, and whose, of each job that has started."""
        self.ended = 0
        self.used_s: dict[str, float] = {}
        """Slot-time by now, that of the jobs that still run too."""
        self._last = b""
        self._running: Counter[str] = Counter()
        self._ends: list[tuple[float, int, FakeLink, bytes]] = []
        self._jobs: dict[bytes, tuple[str, float]] = {}

    @property
    def now(self) -> float:
        """Seconds on the clock."""
        return self.driver.clock.now

    def open(self) -> None:
        """The workers come, within a second, and each takes a job."""
        for _ in range(self.slots):
            self._take(self.driver.worker())
            self.wait(1.0 / self.slots)

    def submit(self, link: FakeLink, whose: str, seconds: float, key: str = "") -> bytes:
        """A job that is going to take so long."""
        cookie = self.driver.new_cookie()
        self._jobs[cookie] = whose, seconds
        meta = schemas.encode_meta(schemas.RunOptions(p="p", enc=ENCODING_BYTES, key=key))
        self.driver.send(link, packets.run(cookie, meta, b""))
        return cookie

    def next(self) -> None:
        """The job that ends first ends, and another one starts in its slot."""
        self._pass_until(self._ends[0][0])
        _, _, worker, cookie = heappop(self._ends)
        whose, _ = self._jobs.pop(cookie)
        self._running[whose] -= 1
        self.ended += 1
        self.driver.result(worker, cookie)
        self._take(worker)

    def wait(self, seconds: float) -> None:
        """Time passes, and jobs end in it."""
        target = self.now + seconds
        while self._ends and self._ends[0][0] <= target:
            self.next()
        self._pass_until(target)

    def until_started(self, cookie: bytes) -> tuple[int, float]:
        """How many other jobs start before this one, which has just come, and how many seconds that takes."""
        before, since = len(self.starts), self.now
        while self._last != cookie:
            self.next()
        return len(self.starts) - before - 1, self.now - since

    def _pass_until(self, target: float) -> None:
        passed = target - self.now
        for whose, slots in self._running.items():
            self.used_s[whose] = self.used_s.get(whose, 0.0) + slots * passed
        self.driver.advance(passed)

    def _take(self, worker: FakeLink) -> None:
        for packet in worker.take_kinds(PacketType.RUN):
            self._last = packet.cookie
            whose, seconds = self._jobs[self._last]
            self._running[whose] += 1
            self.starts.append((self.now, whose))
            heappush(self._ends, (self.now + seconds, len(self.starts), worker, self._last))


@dataclass(frozen=True, slots=True)
class Waits:
    """How long jobs of one second waited while so many keys were active. A wait is told in starts of others, and in seconds."""

    active: int
    first_starts: list[int]
    """Of each newcomer's first job."""
    first_s: list[float]
    later_starts: list[int]
    """Of each further job of one who stays."""
    later_s: list[float]

    def check(self) -> None:
        """Raises Missed if a newcomer waited for more than one turn of each active key, or one who stays did on the average."""
        if max(self.first_starts) > self.active:
            raise Missed(f"a newcomer waited for {max(self.first_starts)} turns of {self.active} active keys")
        if sum(self.later_starts) > self.active * (len(self.later_starts) + 1):
            mean = sum(self.later_starts) / len(self.later_starts)
            raise Missed(f"one who stays waited for {mean:.1f} turns of {self.active} active keys on the average")


@dataclass(frozen=True, slots=True)
class Story:
    """Which jobs started around the time when a newcomer came."""

    queued: int
    keys: list[str]
    """In the order in which they came; the first has queued so many jobs, the last is the newcomer."""
    starts: list[tuple[float, str]]
    """Seconds since the newcomer came, and whose job."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """The slot-time of the heavier key over that of the lighter one as it develops, from jobs drawn with one seed."""

    seed: int
    jobs: list[int]
    ratio: list[float]

    def check(self) -> None:
        """Raises Missed if the last ratio is further from the weights' than allowed."""
        if abs(self.ratio[-1] / WEIGHT - 1.0) > TOLERANCE:
            found = f"slot-time is {self.ratio[-1]:.3f} : 1, and not {WEIGHT:g} : 1"
            raise Missed(f"after {self.jobs[-1]:,} jobs {found} (seed {self.seed})")

    def holds_from(self) -> int:
        """After so many jobs it is within what is allowed, and stays there."""
        far = [jobs for jobs, ratio in zip(self.jobs, self.ratio, strict=True) if abs(ratio / WEIGHT - 1.0) > TOLERANCE]
        return next((jobs for jobs in self.jobs if not far or jobs > far[-1]), self.jobs[-1])


def crowd(active: int, queued: int) -> Scene:
    """All slots are taken; one key has so many jobs that wait, and the other active ones have enough."""
    scene = Scene(SLOTS)
    greedy = scene.driver.client()
    for _ in range(queued):
        scene.submit(greedy, "greedy", 1.0)
    scene.open()
    for number in range(1, active):
        client = scene.driver.client()
        for _ in range(min(JOBS_ENOUGH, queued)):
            scene.submit(client, f"key {number}", 1.0)
    for _ in range(5 * active + 5 * SLOTS):
        scene.next()
    return scene


def waits(active: int, queued: int) -> Waits:
    """Newcomers come, and after them one who stays."""
    scene = crowd(active, queued)
    random = Random(active)
    firsts = []
    for _ in range(NEWCOMERS):
        scene.wait(random.uniform(1.0, 2.0))
        firsts.append(scene.until_started(scene.submit(scene.driver.client(), "newcomer", 1.0)))
    scene.wait(random.uniform(1.0, 2.0))
    client = scene.driver.client()
    staying = [scene.until_started(scene.submit(client, "stays", 1.0)) for _ in range(JOBS_OF_WHO_STAYS + 1)][1:]
    return Waits(
        active,
        [starts for starts, _ in firsts],
        [round(seconds, 4) for _, seconds in firsts],
        [starts for starts, _ in staying],
        [round(seconds, 4) for _, seconds in staying],
    )


def story(active: int, queued: int) -> Story:
    """A newcomer comes with many jobs at once."""
    before_s, after_s = STORY_S
    scene = crowd(active, queued)
    scene.wait(before_s + 0.1)
    came = scene.now
    client = scene.driver.client()
    for _ in range(JOBS_OF_WHO_STAYS):
        scene.submit(client, "newcomer", 1.0)
    scene.wait(after_s)
    starts = [(round(at - came, 4), whose) for at, whose in scene.starts if at >= came - before_s]
    return Story(queued, ["greedy", *(f"key {number}" for number in range(1, active)), "newcomer"], starts)


def weighted(seed: int, jobs: int) -> Ratio:
    """Two keys, a second a job on the average: exponentially distributed, so one in a hundred takes more than 4.6 s, and one 0.01 s."""
    random = Random(seed)
    scene = Scene(WEIGHT_SLOTS, Scheduling(weights={"heavy": WEIGHT}))
    client = scene.driver.client()
    for _ in range(jobs + WEIGHT_SLOTS):
        for key in ("heavy", "light"):
            scene.submit(client, key, random.expovariate(1.0), key)
    scene.open()
    found = Ratio(seed, [], [])
    while scene.ended < jobs:
        scene.next()
        if scene.ended % STEP == 0:
            found.jobs.append(scene.ended)
            found.ratio.append(round(scene.used_s["heavy"] / scene.used_s["light"], 4))
    return found


def tables(told: Story, rows: Sequence[Waits], ratios: Sequence[Ratio]) -> list[Table]:
    """What was found, for people."""
    newcomer = Table(title=f"A newcomer, behind {told.queued:,} jobs of one second, {SLOTS} slots", title_justify="left")
    for name in ("active keys", "starts before a first job, worst", "seconds, worst", "before a further one, mean", "worst"):
        newcomer.add_column(name, justify="right")
    for row in rows:
        newcomer.add_row(
            f"{row.active}",
            f"{max(row.first_starts)}",
            f"{max(row.first_s):.2f}",
            f"{sum(row.later_starts) / len(row.later_starts):.2f}",
            f"{max(row.later_starts)}",
        )
    weights = Table(title=f"Slot-time of weight {WEIGHT:g} over that of weight 1, {len(ratios)} seeds", title_justify="left")
    for name in ("jobs", "lowest", "median", "highest"):
        weights.add_column(name, justify="right")
    last = len(ratios[0].jobs) - 1
    for place in sorted({min(place, last) for place in (0, 1, 4, 9, 19, 49, last)}):
        found = [ratio.ratio[place] for ratio in ratios]
        weights.add_row(f"{ratios[0].jobs[place]:,}", f"{min(found):.3f}", f"{median(found):.3f}", f"{max(found):.3f}")
    holds = [ratio.holds_from() for ratio in ratios]
    weights.caption = f"Within {TOLERANCE:.0%} for good: after {median(holds):,.0f} jobs (median), {max(holds):,} at the latest"
    return [newcomer, weights]


def main(arguments: Sequence[str] | None = None) -> int:
    """Play both scenes, print what was found, check the goals. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer jobs that wait, keys and seeds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all raw figures there")
    options = parser.parse_args(arguments)
    queued, active, seeds = (2_000, ACTIVE[:3], 3) if options.quick else (QUEUED, ACTIVE, SEEDS)
    told = story(STORY_ACTIVE, queued)
    rows = [waits(count, queued) for count in active]
    ratios = [weighted(seed, JOBS) for seed in range(seeds)]
    Console().print(*tables(told, rows, ratios))
    if options.json:
        raw = {
            "newcomer": {"slots": SLOTS, "story": asdict(told), "waits": [asdict(row) for row in rows]},
            "weights": {"weight": WEIGHT, "tolerance": TOLERANCE, "ratios": [asdict(ratio) for ratio in ratios]},
        }
        options.json.write_text(json.dumps(raw) + "\n")
    try:
        for row in rows:
            row.check()
        for ratio in ratios:
            ratio.check()
    except Missed as missed:
        print(f"fairness: {missed}", file=sys.stderr)
        return EXIT_MISSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
