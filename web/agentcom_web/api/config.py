"""/config: the settings that the hub changes at run time."""

from __future__ import annotations

from flask import Blueprint, Response

from agentcom import messages as m
from agentcom_web.forwarding import answer, body, described, query

config = Blueprint("config", __name__)


@config.get("/config")
@described("view, operate, admin", query=m.ConfigGet)
def listed() -> Response:
    """The settings that change at run time, each with its value, where that comes from, and who set it when."""
    return answer(query(m.ConfigGet))


@config.patch("/config")
@described("admin", body=(m.ConfigChange,))
def change() -> Response:
    """Set and unset settings, all or none: {"set": {"queue.lease_s": 60}, "unset": ["queue.backoff_s"]}. In force
    with the answer, and after a restart. Local settings are refused (`local_setting`)."""
    return answer(body(m.ConfigChange))
