"""/openapi.json and /schemas: made from the routes and the types themselves, so they say what exists."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from flask import Blueprint, Flask, Response, current_app
from msgspec import Struct

from agentcom import __version__
from agentcom import messages as m
from agentcom.model import JsonObject
from agentcom_web.forwarding import Described, bearer, described, json_response
from agentcom_web.services import services

description = Blueprint("description", __name__)
REF = "#/components/schemas/{name}"
PATH_ARGUMENT = re.compile(r"<(?:(\w+):)?(\w+)>")
OPEN_TO_ALL = ("anyone",)
SKIPPED_METHODS = {"HEAD", "OPTIONS"}


class Problem(Struct):
    """An error: RFC 9457 with a stable `code`, and the path of the field at fault where there is one."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    field: str | None = None
    retry_after_s: float | None = None


@description.get("/schemas")
@described("view, submit, operate, admin")
def schemas() -> Response:
    """The JSON schemas of every message of the wire protocol."""
    services().people.whose(bearer())
    refs, components = msgspec.json.schema_components(_messages(), ref_template=REF)
    return json_response({"messages": refs, "components": {"schemas": components}})


@description.get("/openapi.json")
@described("view, submit, operate, admin")
def openapi() -> Response:
    """This API."""
    services().people.whose(bearer())
    return json_response(document(current_app))


def _messages() -> list[type[Struct]]:
    unions = (m.ToHub, m.FromHub)
    kinds = [kind for union in unions for kind in union.__args__]
    # A raw task inside `assign` has no schema of its own: its bytes are a TaskSpec.
    return [kind for kind in kinds if kind is not m.Assign]


def document(app: Flask) -> JsonObject:
    """The OpenAPI document of every described route of `app`."""
    found = [(rule, method, view) for rule, method, view in _described_routes(app)]
    types = {kind for _, _, view in found for kind in (view.query, *view.body, view.answer) if kind} | {
        Problem
    }
    named = sorted(types, key=repr)
    refs, components = msgspec.json.schema_components(named, ref_template=REF)
    schema_of = dict(zip(named, refs, strict=True))
    paths: JsonObject = {}
    for rule, method, view in found:
        path = PATH_ARGUMENT.sub(r"{\2}", rule.rule)
        paths.setdefault(path, {})[method.lower()] = _operation(app, rule, view, schema_of, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "AgentCom", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described_routes(app: Flask) -> list[tuple[Any, str, Described]]:
    found = []
    for rule in sorted(app.url_map.iter_rules(), key=lambda r: r.rule):
        view = getattr(app.view_functions[rule.endpoint], "described", None)
        for method in sorted((rule.methods or set()) - SKIPPED_METHODS):
            if isinstance(view, Described):
                found.append((rule, method, view))
    return found


def _operation(
    app: Flask, rule: Any, view: Described, schema_of: dict[Any, JsonObject], components: JsonObject
) -> JsonObject:
    text = " ".join((app.view_functions[rule.endpoint].__doc__ or "").split())
    problem = {"application/problem+json": {"schema": schema_of[Problem]}}
    content = {"schema": schema_of[view.answer]} if view.answer else {}
    described_op: JsonObject = {
        "operationId": rule.endpoint.replace(".", "_"),
        "summary": text.split(". ")[0].rstrip("."),
        "description": f"{text} Roles: {view.roles}.",
        "parameters": _parameters(rule, view, components, schema_of),
        "responses": {
            str(view.status): {"description": "Done.", "content": {view.media: content}},
            "default": {"description": "Refused or failed.", "content": problem},
        },
    }
    if view.body:
        shapes = [schema_of[kind] for kind in view.body]
        schema = shapes[0] if len(shapes) == 1 else {"oneOf": shapes}
        if view.required:
            schema = {"allOf": [schema, {"required": list(view.required)}]}
        described_op["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    if not view.roles.startswith(OPEN_TO_ALL):
        described_op["security"] = [{"bearer": []}]
    return described_op


def _parameters(
    rule: Any, view: Described, components: JsonObject, schema_of: dict[Any, JsonObject]
) -> list[JsonObject]:
    found: list[JsonObject] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "integer" if converter == "int" else "string"},
        }
        for converter, name in PATH_ARGUMENT.findall(rule.rule)
    ]
    if view.query is not None:
        properties = components[view.query.__name__]["properties"]
        tagged = {view.query.__struct_config__.tag_field, *view.fixed}
        found += [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in properties.items()
            if name not in tagged
        ]
    return found
