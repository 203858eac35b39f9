"""The features of a simulation, in the order in which they build on each other."""

from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.features.attempts import Attempts
from reasonchip_broker.testing.simulation.features.broker import Broker
from reasonchip_broker.testing.simulation.features.cancelling import Cancelling
from reasonchip_broker.testing.simulation.features.clock import Clock
from reasonchip_broker.testing.simulation.features.connections import Connections
from reasonchip_broker.testing.simulation.features.jobs import Jobs
from reasonchip_broker.testing.simulation.features.nonsense import Nonsense
from reasonchip_broker.testing.simulation.features.outcomes import Outcomes
from reasonchip_broker.testing.simulation.features.parking import Parking
from reasonchip_broker.testing.simulation.features.reads import Reads
from reasonchip_broker.testing.simulation.features.report import Reports
from reasonchip_broker.testing.simulation.features.rules import Rules
from reasonchip_broker.testing.simulation.features.scheduling import Scheduling
from reasonchip_broker.testing.simulation.features.sessions import Sessions
from reasonchip_broker.testing.simulation.features.streams import Streams
from reasonchip_broker.testing.simulation.features.turns import Turns

FEATURES: tuple[type[Feature], ...] = (
    Attempts,
    Cancelling,
    Streams,
    Scheduling,
    Turns,
    Outcomes,
    Sessions,
    Rules,
    Broker,
    Connections,
    Jobs,
    Parking,
    Reads,
    Reports,
    Nonsense,
    Clock,
)
