"""AgentCom: a hub that queues work for AI coding agents and runs each task on the right machine."""

from agentcom import compiled

__version__ = "0.1.0"

compiled.use()  # before any module that it may have something for
