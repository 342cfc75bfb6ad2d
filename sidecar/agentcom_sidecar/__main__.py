"""`python -m agentcom_sidecar`: the daemon on the AGENTCOM_HOME of the environment."""

from __future__ import annotations

import sys

from agentcom import config, logs
from agentcom.errors import ConfigError
from agentcom_sidecar.daemon import main


def run() -> int:
    home = config.Home(config.home_path())
    try:
        return main(home, config.load(home.path))
    except ConfigError as error:
        logs.say(f"agentcom sidecar: {error.message}")
        return 2


if __name__ == "__main__":
    sys.exit(run())
