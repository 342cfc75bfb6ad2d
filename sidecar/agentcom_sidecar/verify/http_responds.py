"""http_responds: a server that the work contains answers. `command` starts it, `target` is what is asked of it.

Server and question run behind the same door, so that they also see each other where commands have no network. All of
it is dead when the check has ended.
"""

from __future__ import annotations

import json
import shlex
import sys
from typing import Final

from agentcom.model import CheckReport, CheckSpec, CheckStatus
from agentcom_sidecar import policy
from agentcom_sidecar.backends import shell
from agentcom_sidecar.verify.report import output_of_command, report, status_of_command
from agentcom_sidecar.work import Work

# Runs in the host's own Python, without the project: ask until the answer fits, the server ends, or time is up.
_ASK: Final = """\
import http.client, json, subprocess, sys, time
from urllib.parse import urlsplit
command, url, wanted = json.loads(sys.argv[1])
at = urlsplit(url)
path = (at.path or "/") + ("?" + at.query if at.query else "")
server = subprocess.Popen(["sh", "-c", command])
said = "no answer"
while True:
    ended = server.poll()
    try:
        connection = http.client.HTTPConnection(at.hostname, at.port or 80, timeout=5)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(2000).decode("utf-8", "replace")
        said = "%s answered %d\\n%s" % (url, answer.status, body)
        if str(answer.status) == wanted or (not wanted and 200 <= answer.status < 400):
            print(said)
            sys.exit(0)
    except (OSError, http.client.HTTPException) as error:
        said = "%s: %s" % (url, error)
    if ended is not None:
        print(said, flush=True)
        sys.exit("the command ended with exit code %d before it answered as wanted" % ended)
    time.sleep(0.2)
"""


async def check(spec: CheckSpec, work: Work) -> CheckReport:
    if refusal := policy.check_commands(work):
        return report(spec, CheckStatus.refused, refusal.message, 0)
    order = json.dumps([spec.command, spec.target, spec.expect])
    asked = " ".join(shlex.quote(each) for each in (sys.executable, "-I", "-c", _ASK, order))
    result = await shell.run(work, asked, spec.timeout_s, is_logged=False)
    return report(spec, status_of_command(result), output_of_command(result), result.duration_ms)
