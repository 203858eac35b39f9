"""How the broker schedules: what an operator decides about who goes next, and where. (`[scheduling]` in the configuration.)"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from reasonchip_broker.limits import WEIGHT_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduling:
    """Decisions about scheduling. Raises ValueError for one that makes no sense."""

    half_life_s: float = 60.0
    """Of what a fairness key has used, half counts after this time."""

    ageing_s: float = 0.0
    """A job that has waited so long counts for one priority level more, and so on; 0: levels are strict for ever."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """Of fairness keys, by what they are called: a principal, or the key that jobs name. 1 where nothing is said."""

    def as_dict(self) -> dict[str, Any]:
        """All of them, by name."""
        return asdict(self)

    def __post_init__(self) -> None:
        if self.half_life_s <= 0:
            raise ValueError(f"half_life_s must be over 0, not {self.half_life_s}")
        if self.ageing_s < 0:
            raise ValueError(f"ageing_s must not be below 0, not {self.ageing_s}")
        for name, weight in self.weights.items():
            if not 0 < weight <= WEIGHT_MAX:
                raise ValueError(f"the weight of {name!r} must be over 0 and at most {WEIGHT_MAX:,}, not {weight}")
