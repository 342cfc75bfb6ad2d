"""The dashboard's shell: one static page; everything on it is fetched by its script."""

from __future__ import annotations

from flask import Blueprint, Response, make_response, render_template

page = Blueprint("page", __name__)


@page.get("/")
def dashboard() -> Response:
    """The page. It holds nothing that needs rights."""
    response = make_response(render_template("index.html"))
    response.headers["Cache-Control"] = "no-cache"
    return response
