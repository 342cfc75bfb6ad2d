"""A report as its host has signed it: what was signed, the signature, the public key. Ed25519; pure functions.

What is signed is text (`statement`, see report_statement.py), so that anybody can check it with nothing of ours:
the signature is over its UTF-8 bytes. Keys and signatures are hex.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from msgspec import Meta, Struct

from agentcom import limits

SigningKey = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]  # the public half
Signature = Annotated[str, Meta(pattern=r"^[0-9a-f]{128}$(?!\n)")]


class SignedReport(Struct, frozen=True, kw_only=True):
    """`statement` is canonical JSON. `key` is the public key that the signature claims to be of: whether that is the
    host's is another question."""

    statement: Annotated[str, Meta(max_length=limits.STATEMENT_CHARS_MAX)]
    signature: Signature
    key: SigningKey


def fingerprint(key: str) -> str:
    """A public key in short, for people to compare: the first 128 bits of its SHA-256, in groups."""
    digest = hashlib.sha256(bytes.fromhex(key)).hexdigest()[:32]
    return ":".join(digest[at : at + 4] for at in range(0, 32, 4))


def signature_in_short(signed: SignedReport) -> str:
    """By which a signature is known in a pull request."""
    return hashlib.sha256(bytes.fromhex(signed.signature)).hexdigest()[:16]


def is_genuine(signed: SignedReport) -> bool:
    """Whether the signature is of that statement, by the private half of that key. 0.13 to 0.3 ms, by the
    load of the machine, nearly all of it in the library; to compare two checks besides takes 0.12 ms."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signed.key))
        public.verify(bytes.fromhex(signed.signature), signed.statement.encode())
    except (InvalidSignature, ValueError):
        return False
    return True


def sign(statement: str, seed: bytes) -> SignedReport:
    """The statement signed with the private key of that seed."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    made = Ed25519PrivateKey.from_private_bytes(seed).sign(statement.encode())
    return SignedReport(statement=statement, signature=made.hex(), key=public_half(seed))


def public_half(seed: bytes) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
