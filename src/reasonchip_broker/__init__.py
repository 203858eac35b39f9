"""The ReasonChip broker: live dispatch of long, streaming, cancellable work, with no other server to install.

`Broker` is loaded when it is first asked for, so that a client or a worker need not load a broker. Everything logs below the logger
`reasonchip_broker` of the standard library, which is silent until the application (or `reasonchip-broker serve`) gives it a handler.
"""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reasonchip_broker.broker import Broker

__all__ = ["Broker"]

logger = logging.getLogger(__name__)
logger.addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name == "Broker":
        from reasonchip_broker.broker import Broker

        return Broker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
