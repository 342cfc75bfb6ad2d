"""`agentcom task verify-report`: check the signatures of a task's reports here, from what is stored.

Nothing is asked of the hub but the bytes; from a file that was saved nothing at all.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import msgspec

from agentcom.cli import output
from agentcom.cli.command import HubCommand, Invocation, pass_invocation, task_number
from agentcom.config import write_private
from agentcom.errors import ConfigError
from agentcom.model import JsonObject
from agentcom.report_statement import fault_of, needs_signature, result_of
from agentcom.signed_report import fingerprint

NUMBER = re.compile(r"-?[0-9]+")  # a task's, or what was meant as one
KEY = re.compile(r"[0-9a-f]{64}")
GONE = "its result has gone (retention.reports_s, retention.reports_max)"  # of what has completed: it had one


def _public_key(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not KEY.fullmatch(value):
        raise click.BadParameter("a public key has 64 hex digits (0-9, a-f), as `host_key` in saved reports")
    return value


def _number_or_file(value: str) -> int | str:
    return task_number(value) if NUMBER.fullmatch(value) else value


@click.command("verify-report", cls=HubCommand)
@click.argument("source", metavar="ID|FILE", type=_number_or_file)
@click.option(
    "--key",
    metavar="KEY",
    callback=_public_key,
    help="The public key to hold the host to, instead of the one that the hub knows.",
)
@click.option("--save", metavar="FILE", help="Keep the reports, to check them again without the hub.")
@pass_invocation
def verify_report(invocation: Invocation, source: int | str, key: str | None, save: str | None) -> None:
    """Check that a task's reports are what their hosts have signed.

    Exit code 1 where one is not, or where none is signed.
    """
    reports = _reports(invocation, source)
    if save is not None:
        try:
            write_private(Path(save), json.dumps(reports, indent=1).encode())
        except OSError as error:
            raise ConfigError(f"cannot save the reports as {save}: {error.strerror}; name another file") from error
    told = [each for each in reports["attempts"] if each.get("result") or each.get("outcome") == "completed"]
    found = [verdict(reports["task"], each, key) for each in told]
    is_good = any(each["verified"] for each in found) and not any(each["code"] for each in found)
    if invocation.as_json:
        output.document({"task": reports["task"], "verified": is_good, "attempts": found})
    else:
        output.table(
            ("ATTEMPT", "HOST", "REPORT", "KEY", "SIGNED", "STATUS", "COMMIT"),
            [
                (
                    each["attempt"],
                    each["host"],
                    each["said"],
                    each["key"] or "",
                    each["signed_at"] or "",
                    each["status"],
                    (each["commit"] or "")[:12],
                )
                for each in found
            ],
            "no result of any attempt is kept",
        )
    if not is_good:
        raise click.exceptions.Exit(1)


def _reports(invocation: Invocation, source: int | str) -> JsonObject:
    if isinstance(source, int):
        with invocation.client() as client:
            return client.task_reports(source)
    remedy = "save them with: agentcom task verify-report ID --save FILE"
    try:
        content = Path(source).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the reports in {source}: {error.strerror}; {remedy}") from error
    try:
        found = json.loads(content)
        if not isinstance(found, dict) or not isinstance(found.get("attempts"), list) or "task" not in found:
            raise ValueError("it has no task and attempts")
    except ValueError as error:
        raise ConfigError(f"{source} holds no reports: {error}; {remedy}") from error
    return found


def verdict(task: int, attempt: JsonObject, key: str | None = None) -> JsonObject:
    """What the bytes of one attempt's report say, whoever gave them. `code` is empty unless they are at fault."""
    known, kept = key or attempt.get("host_key") or "", attempt.get("result") or {}
    view: JsonObject = {
        "attempt": attempt["attempt"],
        "host": attempt["host"],
        "verified": False,
        "code": "",
        "said": "not signed" if kept else GONE,
        "key": None,
        "signed_at": None,
        "status": kept.get("status"),
        "commit": kept.get("commit"),
    }
    if not kept:
        return view
    try:
        result = result_of(kept)
    except msgspec.ValidationError as error:
        return {**view, "code": "report_malformed", "said": f"no result: {error}"}
    if result.signed is None and not (key and needs_signature(result)):
        return view  # of a time before reports were signed, or with nothing to prove
    fault = fault_of(result, key=known, task=task, attempt=attempt["attempt"], host=attempt["host"])
    if result.signed is not None:
        signature = kept.get("signature") or {}
        view |= {"key": fingerprint(result.signed.key), "signed_at": signature.get("signed_at")}
    if fault is not None:
        return {**view, "code": fault.code, "said": fault.message}
    return {**view, "verified": True, "said": "verified"}
