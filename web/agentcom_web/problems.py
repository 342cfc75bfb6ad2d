"""Errors as `application/problem+json`: one table from the codes that the hub and we use to HTTP statuses.

A code that is not in the table is a refusal of what was asked: 422.
"""

from __future__ import annotations

import math
from http import HTTPStatus

import msgspec
from flask import Response

from agentcom.errors import AgentComError, Refused

STATUS_OF = {
    "malformed": 400,
    "multi_frame": 400,
    "unauthorised": 401,
    "forbidden": 403,
    "origin_refused": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "wrong_state": 409,
    "name_taken": 409,
    "token_known": 409,
    "key_known": 409,
    "endpoint_known": 409,
    "not_offline": 409,
    "last_admin": 409,
    "too_large": 413,
    "host_refused": 421,
    "rate": 429,
    "rate_limited": 429,
    "internal": 500,
    "store_damaged": 500,
    "busy": 503,
    "streams_full": 503,
    "hub_unreachable": 503,
    "no_session": 503,
    "revoked": 503,
    "unknown_key": 503,
    "backup_required": 503,
    "storage_full": 507,
}
REFUSED_STATUS = 422
RETRY_AFTER_S = {429: 1.0, 503: 1.0, 507: 10.0}


def status_of(code: str) -> int:
    return STATUS_OF.get(code, REFUSED_STATUS)


def problem(
    code: str, detail: str, *, field: str | None = None, retry_after_s: float | None = None
) -> Response:
    """The response for one error."""
    status = status_of(code)
    if retry_after_s is None:
        retry_after_s = RETRY_AFTER_S.get(status)
    body: dict[str, object] = {
        "type": f"urn:agentcom:error:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "field": field,
    }
    if retry_after_s is not None:
        body["retry_after_s"] = retry_after_s
    response = Response(msgspec.json.encode(body), status=status, content_type="application/problem+json")
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="agentcom"'
    return response


def problem_of(error: AgentComError) -> Response:
    if isinstance(error, Refused):
        return problem(error.code, error.message, field=error.field, retry_after_s=error.retry_after_s)
    return problem(error.code, error.message)
