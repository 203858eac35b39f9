"""Lines and classes of jobs that wait. (What `backlog` does with them is tested there.)"""

from reasonchip_broker.routing.route import RouteState
from tests.unit.routing.queueing import Scene
from tests.unit.routing.test_gathering import weighed
from tests.unit.switchboard.limiting import ran


def test_the_head_of_a_line_is_the_oldest_job_that_still_waits() -> None:
    scene = Scene()
    routes = [scene.push("a") for _ in range(3)]
    (line,) = routes[0].kind.lines.values()
    routes[0].state = RouteState.OVER
    assert line.head() is routes[1]
    for route in routes:
        route.state = RouteState.OVER
    assert line.head() is None


def test_of_equally_loaded_pools_each_has_its_turn_of_heavy_jobs() -> None:
    driver = weighed()
    client, workers = driver.client(), [driver.worker(4), driver.worker(8)]
    for _ in range(2):
        for worker in workers:
            heavy = driver.run(client, "heavy")
            assert ran(worker) == [heavy]
            driver.result(worker, heavy)
