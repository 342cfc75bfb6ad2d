"""AgentCom: a hub that queues work for AI coding agents and runs each task on the right machine."""

__version__ = "0.1.0"
