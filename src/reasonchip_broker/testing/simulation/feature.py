"""One thing that the broker does: what may happen, what must be seen of it, and its share of the quiet phase."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reasonchip_broker.testing.simulation.chooser import Chooser
    from reasonchip_broker.testing.simulation.world import Operation, World


class Feature:
    """Adds itself to a world and its model. A feature may use those that stand before it in `FEATURES`."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.driver = world.driver
        self.model = world.model

    def operations(self) -> dict[str, Callable[..., None]]:
        """What may happen, by name; each is called with the rest of its operation."""
        return {}

    @staticmethod
    def choices(chooser: "Chooser") -> "list[tuple[int, Callable[[], Operation | None]]]":
        """Who chooses an operation of this feature, and how often; None if there is nothing to do now."""
        return []

    def restarted(self) -> None:
        """Another run of the broker has begun, which knows nothing of the one before."""

    def calm(self) -> None:
        """Faults stop."""

    def work(self) -> None:
        """One round of a time without faults, in which all goes on."""

    def check_rest(self) -> None:
        """After it nothing is left over. Raises BrokenPromise."""
