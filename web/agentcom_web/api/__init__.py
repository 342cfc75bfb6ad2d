"""The HTTP API: a blueprint per subject. Each view checks what it was given, asks the hub, returns JSON."""

from flask import Blueprint

from agentcom_web.api.budgets import budgets
from agentcom_web.api.config import config
from agentcom_web.api.dead import dead
from agentcom_web.api.description import description
from agentcom_web.api.endpoints import endpoints
from agentcom_web.api.fleet import fleet
from agentcom_web.api.health import health
from agentcom_web.api.live import live
from agentcom_web.api.queue import queue
from agentcom_web.api.repos import repos
from agentcom_web.api.session import session
from agentcom_web.api.store import store
from agentcom_web.api.tasks import tasks

PREFIX = "/api/v1"
SUBJECTS: tuple[Blueprint, ...] = (
    tasks, dead, fleet, endpoints, repos, queue, budgets, store, config, session, live, description,
)  # fmt: skip
UNPREFIXED: tuple[Blueprint, ...] = (health,)
