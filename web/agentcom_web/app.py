"""The Flask app: a factory that joins the blueprints and holds what is true of every request.

Every request must come under one of our own names (Host) and from our own pages (Origin, where sent); every
answer carries the security headers; every error is problem+json.
"""

from __future__ import annotations

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from agentcom import limits, logs
from agentcom.errors import AgentComError
from agentcom_web.api import PREFIX, SUBJECTS, UNPREFIXED
from agentcom_web.page import page
from agentcom_web.problems import problem, problem_of
from agentcom_web.services import KEY, Services

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
CODE_OF_STATUS = {400: "malformed", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}


def create_app(services: Services) -> Flask:
    """The app over `services`; several may live in one process."""
    app = Flask("agentcom_web")
    app.config["MAX_CONTENT_LENGTH"] = limits.REQUEST_BYTES_MAX
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.strict_slashes = True
    app.extensions[KEY] = services
    for subject in SUBJECTS:
        app.register_blueprint(subject, url_prefix=PREFIX)
    for subject in UNPREFIXED:
        app.register_blueprint(subject)
    app.register_blueprint(page)
    app.before_request(lambda: _refuse_strangers(services))
    app.after_request(_secure)
    app.register_error_handler(AgentComError, problem_of)
    app.register_error_handler(HTTPException, _http_problem)
    app.register_error_handler(Exception, _broken)
    return app


def _refuse_strangers(services: Services) -> Response | None:
    host = request.environ.get("HTTP_HOST", "")
    if not services.names.host_is_ours(host):
        return problem(
            "host_refused",
            f"this server does not go by the name {host[:200]!r}; use its own address, "
            "or list the name in http.allowed_hosts",
        )
    origin = request.headers.get("Origin")
    if origin is not None and not services.names.origin_is_ours(origin):
        return problem("origin_refused", f"pages of {origin[:200]!r} may not use this server")
    return None


def _secure(response: Response) -> Response:
    for name, value in SECURITY_HEADERS.items():
        response.headers[name] = value
    if "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "no-store"
    return response


def _http_problem(error: HTTPException) -> Response:
    status = error.code or 500
    if status == 413:
        return problem("too_large", f"the body may have {limits.REQUEST_BYTES_MAX} bytes")
    code = CODE_OF_STATUS.get(status, "malformed" if status < 500 else "internal")
    response = problem(code, error.description or error.name)
    if status == 405:
        response.headers["Allow"] = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
    return response


def _broken(error: Exception) -> Response:
    logs.get(component="web").error(
        "request_failed", method=request.method, path=request.path, exc_info=error
    )
    return problem("internal", "the web process failed to answer this; its log says why")
