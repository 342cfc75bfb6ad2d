"""Any other program: it says what came out in a JSON file, `{result_file}` (also AGENTCOM_RESULT_FILE).

All fields may be left out: `output`, `model`, `session`, `tokens_in` (cached ones included), `tokens_cached`,
`tokens_out`, `cost_usd`, `error` as `{"class": ..., "message": ...}` with one of the failure classes. Without a file
what it printed last is its output.
"""

from __future__ import annotations

import json

from agentcom.model import FailureClass
from agentcom_sidecar.programs.base import Heard, dollars, table, usage_of, word

RESULT_BYTES_MAX = 1024 * 1024


def read_result(content: bytes, heard: Heard) -> str:
    """What the file says, into `heard`; why it cannot be used, empty for nothing."""
    if len(content) > RESULT_BYTES_MAX:
        return f"the result file has more than {RESULT_BYTES_MAX} bytes"
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        return f"the result file is no JSON: {str(error)[:200]}"
    if not isinstance(found, dict):
        return "the result file holds no JSON object"
    heard.say(found.get("output"))
    heard.model, heard.session = word(found.get("model")), word(found.get("session"))
    whole = usage_of(found.get("tokens_in"), found.get("tokens_cached"), found.get("tokens_out"))
    cached = min(whole.cache_read, whole.fresh)
    heard.usage = usage_of(whole.fresh - cached, cached, whole.out)
    heard.cost_usd = dollars(found.get("cost_usd"))
    heard.is_over = True
    told = table(found.get("error"))
    if told:
        named = word(told.get("class"))
        of_class = FailureClass(named) if named in set(FailureClass) else FailureClass.task_error
        heard.fail(of_class, "program_failed", told.get("message"))
    return ""
