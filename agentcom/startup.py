"""What `agentcom up` does between the hub's ready line and its own: this machine's host key, the admin token,
the link to the dashboard. Each is made only when it is missing or the hub does not know it.
"""

from __future__ import annotations

from agentcom.auth import make_token, sha256_hex
from agentcom.client import Client
from agentcom.config import Home, Settings, read_private, write_private
from agentcom.enrolment import default_name, enrol, joined
from agentcom.errors import ConfigError, Refused
from agentcom.model import JsonObject, Role

TOKEN_PREFIX = "up-"


def check_home(home: Home) -> None:
    """Refuse a home that has joined another hub: it would then hold keys of two."""
    if (home.keys / "hub.json").exists() and not (home.keys / "hub.key").exists():
        raise ConfigError(
            f"{home.path} has joined another hub; run `agentcom sidecar` here, or `agentcom up` with another "
            "AGENTCOM_HOME"
        )


def ensure_host(client: Client, home: Home, settings: Settings) -> str | None:
    """Join this home's own sidecar; a line for people when its key was revoked, so that it cannot run."""
    record = joined(home)
    if record is not None and (home.keys / "host.key").exists():
        known = _named(client, record.name)
        if known is not None and not known.get("revoked"):
            return None
        if known is not None:
            return _revoked(home)
    code, _ = client.host_invite(Role.host, default_name(settings))
    try:
        enrol(home, code, default_name(settings))
    except Refused as refused:
        if refused.code == "key_known":
            return _revoked(home)
        raise
    return None


def _revoked(home: Home) -> str:
    return (
        f"this machine's host key was revoked, so no sidecar runs here; to join it again remove "
        f"{home.keys / 'host.key'} and start anew"
    )


def ensure_token(client: Client, home: Home) -> str:
    """The path of run/token, an admin bearer token that the hub knows; made anew if it is missing or unknown.

    The token's name carries the start of its hash, so that a look at the hub's list tells whether the file
    holds it. Tokens of earlier files are revoked.
    """
    path = home.run / "token"
    if path.exists():
        name = _token_name(read_private(path).decode().strip())
        known = _named(client, name)
        if known is not None and not known.get("revoked"):
            return str(path)
    for old in client.token_list()["tokens"]:
        if old["name"].startswith(TOKEN_PREFIX) and not old.get("revoked"):
            client.token_revoke(old["name"])
    token = make_token("t")
    client.token_add(_token_name(token), Role.admin, sha256_hex(token))
    write_private(path, token.encode() + b"\n")
    return str(path)


def dashboard_link(client: Client, http: str) -> str:
    """The dashboard's address with a one-time secret in its fragment, which no server ever sees."""
    secret = make_token("l")
    client.token_link(sha256_hex(secret))
    return f"{http}/#link={secret}"


def _token_name(token: str) -> str:
    return TOKEN_PREFIX + sha256_hex(token)[:12]


def _named(client: Client, name: str) -> JsonObject | None:
    """The valid principal of that name if there is one, else a revoked one."""
    found = [each for each in client.token_list()["tokens"] if each["name"] == name]
    return min(found, key=lambda each: bool(each.get("revoked")), default=None)
