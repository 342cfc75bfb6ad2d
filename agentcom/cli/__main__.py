"""`python -m agentcom.cli`: the command line, for the supervisor's children and for checkouts."""

import sys

from agentcom.cli import main

if __name__ == "__main__":
    sys.exit(main())
