"""`python -m sluice_gateway`: the same as the command `sluice-gateway`."""

import sys

from sluice_gateway.main import main

sys.exit(main())
