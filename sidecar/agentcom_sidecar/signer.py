"""Signs reports with the key of this host, which never leaves this process: no child gets it, in no environment.

A report is signed as it will be sent: after secrets were taken out of it and it was cut to fit. Where a pull request
names the signature it is signed before, and stays signed so unless it was cut further since.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from agentcom.auth import signing_seed
from agentcom.clock import SystemClock, rfc3339
from agentcom.model import TaskResult
from agentcom.report_statement import describes, needs_signature, statement_of
from agentcom.signed_report import public_half, sign


class Signer:
    """`key` is the public half, hex. Raises ConfigError for a file that is no key or open to others."""

    def __init__(self, path: Path) -> None:
        self._seed = signing_seed(path)
        self.key = public_half(self._seed)

    def signed(self, result: TaskResult, *, task: int, attempt: int, host: str) -> TaskResult:
        """The result with a signature that is of it as it stands; without one where there is nothing to prove."""
        if not needs_signature(result):
            return msgspec.structs.replace(result, signed=None) if result.signed is not None else result
        before = result.signed
        if (
            before is not None
            and before.key == self.key
            and describes(before, result, task=task, attempt=attempt, host=host)
        ):
            return result
        at = rfc3339(SystemClock().now().wall_ms)
        said = statement_of(result, task=task, attempt=attempt, host=host, signed_at=at or "")
        return msgspec.structs.replace(result, signed=sign(said, self._seed))
