"""/budgets: what paid work may cost, and what it has cost."""

from __future__ import annotations

from flask import Blueprint, Response

from agentcom import messages as m
from agentcom.errors import Refused
from agentcom_web.forwarding import answer, body_object, described, operation, query

budgets = Blueprint("budgets", __name__)


@budgets.get("/budgets")
@described("view, operate, admin")
def listed() -> Response:
    """Each budget with what is spent, reserved and left; what paid work has cost; how many tasks are held for one."""
    return answer(query(m.BudgetList))


@budgets.put("/budgets")
@described("operate, admin", body=(m.BudgetSet,), required=("usd",))
def put() -> Response:
    """Set what paid work of all, repo:URL or submitter:NAME may cost per day, month or ever; usd null takes it back."""
    fields = body_object()
    if "usd" not in fields:
        raise Refused("invalid", "usd: is missing; give an amount, or null to take it back", field="usd")
    return answer(operation(m.BudgetSet, fields))
