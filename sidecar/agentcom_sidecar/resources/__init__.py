"""What this host has and how busy it is.

Rules that every reader here keeps:
* A value that cannot be had is None, never 0 and never a guess: the hub takes None as unknown, not as idle.
* Each call into psutil, NVML, sysctl or a file is wrapped alone; one that fails costs its own value only, and its
  reason is kept (`Faults`).
* A reader takes its root folder or its module as an argument, so that it is tested on recorded trees.
"""

from agentcom_sidecar.resources.probe import ResourceProbe as ResourceProbe
