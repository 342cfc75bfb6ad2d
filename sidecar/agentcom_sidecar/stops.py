"""Why an attempt's model or program ended before it was done, as `stop_reason` of a result names it.

What a model or a program says by itself of its ends (`finish`, `end_turn`) is none of these.
"""

from __future__ import annotations

from typing import Final

SPENT: Final = frozenset({"budget", "tokens", "time"})  # what ends the attempt, not only its present try
STANDSTILLS: Final = frozenset({"repetition", "stall"})
CUT_OFF: Final = frozenset({"length", "max_tokens", "model_context_window_exceeded"})  # in the middle of an answer
STOPS: Final = SPENT | STANDSTILLS | CUT_OFF | {"rounds"}
