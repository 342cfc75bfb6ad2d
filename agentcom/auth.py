"""Keys, join codes, tokens and the table of rights. Shared by the hub, the client, the sidecar and the web.

A key file holds a CURVE pair as JSON and is 0600. A join code holds the hub's address and public key and a
one-time secret key, which may only enrol. A token is shown once; only its SHA-256 is stored.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
import secrets
from pathlib import Path

import msgspec
import zmq
from msgspec import Struct

from agentcom.config import Home, read_private, write_private
from agentcom.errors import UNREADABLE, ConfigError
from agentcom.model import Role
from agentcom.signed_report import public_half

JOIN_PREFIX = "acj1."
SCHEME = "tcp://"
PORT_MAX = 65_535
HOST_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")  # or an IPv4 address
IPV6 = re.compile(r"\[([0-9A-Fa-f:.]+)(%[A-Za-z0-9._-]+)?\]")  # in brackets, with its zone
SIGNING_KEY = "host_signing.key"  # of a host's reports, in its keys/


class KeyPair(Struct, frozen=True):
    """A CURVE pair, z85. `public` is the identity that the hub sees."""

    public: str
    secret: str

    @classmethod
    def make(cls) -> KeyPair:
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())

    @classmethod
    def of_secret(cls, secret: str) -> KeyPair:
        return cls(zmq.curve_public(secret.encode()).decode(), secret)


def load_key(path: Path) -> KeyPair:
    """The pair in `path`; ConfigError if it is missing, open to others, or not a key file."""
    try:
        return msgspec.json.decode(read_private(path), type=KeyPair)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: this home has no such key") from None
    except UNREADABLE as error:
        raise ConfigError(f"{path} is not a key file: {error}") from error


def load_or_make_key(path: Path) -> KeyPair:
    """The pair in `path`, made and written 0600 if the file is missing."""
    if path.exists():
        return load_key(path)
    pair = KeyPair.make()
    write_private(path, msgspec.json.encode(pair))
    return pair


def signing_seed(path: Path) -> bytes:
    """The private Ed25519 key in `path` (its seed as hex, 0600), made if missing."""
    if not path.exists():
        write_private(path, secrets.token_bytes(32).hex().encode())
    try:
        seed = bytes.fromhex(read_private(path).decode().strip())
    except ValueError as error:
        raise ConfigError(f"{path} is not an Ed25519 key file: {error}") from error
    if len(seed) != 32:
        raise ConfigError(f"{path} is not an Ed25519 key file: it holds {len(seed)} bytes, not 32")
    return seed


def signing_key_hex(path: Path) -> str:
    """The public half (hex) of the key in `path`, made if missing."""
    return public_half(signing_seed(path))


class JoinCode(Struct, frozen=True, array_like=True):
    """What `agentcom host invite` prints: where the hub is, its public key, a one-time secret, for what."""

    address: str
    hub_key: str
    secret: str
    role: Role

    def text(self) -> str:
        packed = base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode().rstrip("=")
        return JOIN_PREFIX + packed


def parse_join_code(text: str) -> JoinCode:
    """The code in `text`; ConfigError if it is not a whole one."""
    text = text.strip()
    packed = text.removeprefix(JOIN_PREFIX)
    try:
        if packed == text:
            raise ValueError(f"it does not begin with {JOIN_PREFIX}")
        return msgspec.msgpack.decode(
            base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)), type=JoinCode
        )
    except UNREADABLE as error:
        raise ConfigError(
            f"this is not a join code: {error}; copy the whole line from `agentcom host invite`"
        ) from error


class HubAddress(Struct, frozen=True, omit_defaults=True):
    """Where a hub listens: run/hub.json in the hub's own home, keys/hub.json in a home that joined one."""

    hub: str
    key: str
    feed: str = ""
    feed_key: str = ""
    pid: int = 0


def address_fault(text: str) -> str:
    """What is wrong with the address of a hub that somebody gave; empty if nothing is. Whether a hub is there is found
    out later."""
    place = text.removeprefix(SCHEME)
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, ""
    if place == text:
        why = f"it does not begin with {SCHEME}"
    elif not host:
        why = "it has no host"
    elif not _is_host(host):
        why = f"{host!r} is no host"
    elif not port:
        why = "it has no port"
    elif not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= PORT_MAX:
        why = f"{port!r} is no port, which is a number from 1 to {PORT_MAX}"
    else:
        return ""
    return f"{text!r} is not the address of a hub, which has the form {SCHEME}HOST:PORT: {why}"


def _is_host(text: str) -> bool:
    if HOST_NAME.fullmatch(text):
        return True
    found = IPV6.fullmatch(text)
    try:
        return found is not None and bool(ipaddress.IPv6Address(found[1]).exploded)
    except ValueError:
        return False


def read_hub_address(home: Home) -> HubAddress | None:
    """The hub of this home, or None when it never ran a hub nor joined one."""
    for path in (home.run / "hub.json", home.keys / "hub.json"):
        try:
            return msgspec.json.decode(path.read_bytes(), type=HubAddress)
        except FileNotFoundError:
            continue
        except UNREADABLE as error:
            raise ConfigError(f"{path} cannot be read: {error}; remove it and start the hub again") from error
    return None


def write_hub_address(path: Path, address: HubAddress) -> None:
    write_private(path, msgspec.json.encode(address))


def make_token(kind: str = "t") -> str:
    """A new bearer token (`act_`), page session (`acs_`) or link secret (`acl_`): 192 random bits."""
    return f"ac{kind}_{secrets.token_urlsafe(24)}"


def sha256_hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


ORDER = (Role.view, Role.submit, Role.operate, Role.admin)


def at_least(role: Role, needed: Role) -> bool:
    """Whether a person's `role` covers `needed`; `host` and `web` cover nothing here."""
    return role in ORDER and needed in ORDER and ORDER.index(role) >= ORDER.index(needed)


def ready_line(**fields: object) -> str:
    """The one JSON line that a daemon prints when it is ready."""
    return json.dumps({"ready": True, **fields})
