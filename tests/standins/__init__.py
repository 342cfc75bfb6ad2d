"""Stand-ins for the model servers that AgentCom talks to: real processes on real sockets.

`standin("ollama")`, `standin("openai")` and `standin("anthropic")` start one for a test;
`python -m tests.standins.ollama --port 11434` starts one by hand.
"""

from tests.standins.starter import StandIn, standin

__all__ = ["StandIn", "standin"]
