"""What stands in a typed place where there is nothing: where the core is compiled, None is no job and no class of jobs."""

from typing import Final

from reasonchip_broker.protocol.codes import NO_COOKIE, Dialect, Role
from reasonchip_broker.protocol.schemas import RunOptions
from reasonchip_broker.routing.lines import EligibilityClass
from reasonchip_broker.routing.peers import Peer
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.shares import Shares
from reasonchip_broker.scheduling import Scheduling

NO_KIND: Final = EligibilityClass(0, "", False, [])
"""What no job belongs to."""

_NOBODY: Final = Peer(None, NO_COOKIE, Role.CLIENT, Dialect.BINARY, "", False, Shares(Scheduling()).of_connection("", ""))

NO_JOB: Final = Route(NO_COOKIE, _NOBODY, "", RunOptions(p="none"), NO_KIND, RouteState.FORGOTTEN)
"""Stands for a RESULT whose job is none of ours."""
