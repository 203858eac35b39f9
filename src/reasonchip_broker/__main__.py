"""`python -m reasonchip_broker` is `reasonchip-broker`."""

import sys

from reasonchip_broker.cli import main

if __name__ == "__main__":
    sys.exit(main())
