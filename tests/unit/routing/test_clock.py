"""The switchboard's clock is what its caller says."""

from reasonchip_broker.routing.clock import Clock

from .scenes import driven, inside


def test_it_stands_still_until_somebody_says_what_time_it_is() -> None:
    assert Clock().now == 0.0


def test_each_step_brings_its_own_time() -> None:
    driver = driven()
    clock, begin = inside(driver).clock, driver.clock.now
    driver.clock.advance(5.0)
    client = driver.client()
    assert clock.now == begin + 5.0
    driver.clock.advance(2.5)
    cookie = driver.run(client)
    assert clock.now == begin + 7.5
    driver.clock.advance(1.5)
    client.take()
    assert driver.status(client, cookie).age == 1500
