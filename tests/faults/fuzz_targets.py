"""What is fuzzed: everything that decodes bytes which others, a disk or a person have written.

A target takes one input and says whether it was accepted. It may refuse with the errors that its callers know
how to tell; any other exception, and any answer that cannot be right, is a violation.
"""

from __future__ import annotations

import random
import typing
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agentcom import _pysched, auth, config, sched
from agentcom import messages as m
from agentcom.errors import ConfigError, Refused, StoreDamaged, StoreVersion
from agentcom.model import Role, TaskSpec
from agentcom.refusals import request_id_of
from agentcom.store.base import Batch
from agentcom.store.journal import Journal
from agentcom.store.record import pack, unpack
from agentcom.store.segments import Unreadable, decode, read_segment, segments, survey
from tests.faults.samples import valid
from tests.faults.store_workload import Workload

SAMPLES = 200
ENVIRONMENT = {
    "AGENTCOM_HUB_PORT": "0",
    "AGENTCOM_SIDECAR_CAPABILITIES": "gpu,cuda",
    "ANTHROPIC_BASE_URL": "https://x.invalid",
}


class Target(NamedTuple):
    """`seeds` are valid inputs; `accepts` raises for what must never happen."""

    name: str
    seeds: list[bytes]
    accepts: Callable[[bytes], bool]


def wire_to_hub(rng: random.Random) -> Target:
    """What peers send to the hub; each operation at least once."""
    kinds = [kind for kind in typing.get_args(m.ToHub) if kind is not m.Request]
    operations = typing.get_args(m.Operation)
    seeds = [m.encode(valid(kind, rng)) for kind in kinds for _ in range(5)]
    for operation in operations * 3:
        request = m.Request(session=bytes(16), id=rng.randrange(100), op=valid(operation, rng))
        seeds.append(m.encode(request))

    seeds += [m.encode_many(rng.sample(seeds, rng.randint(1, 4))) for _ in range(40)]

    def accepts(content: bytes) -> bool:
        request_id_of(content)
        try:
            messages = m.read_to_hub(memoryview(content))
        except Refused:
            return False
        again = m.read_to_hub(m.encode_many([m.encode(each) for each in messages]))
        assert again == messages or _has_nan(content), "it reads differently when sent again"
        return True

    return Target("wire to the hub", seeds, accepts)


def wire_from_hub(rng: random.Random) -> Target:
    """What a hub sends to sidecars and clients."""
    kinds = typing.get_args(m.FromHub)
    seeds = [m.encode(valid(kind, rng)) for kind in kinds for _ in range(SAMPLES // len(kinds))]
    seeds += [m.encode(valid(TaskSpec, rng)) for _ in range(20)]
    seeds += [m.encode_many(rng.sample(seeds[:-20], rng.randint(1, 4))) for _ in range(40)]

    def accepts(content: bytes) -> bool:
        try:
            for message in m.read_from_hub(content):
                if isinstance(message, m.Assign):
                    m.decode_spec(bytes(message.spec))
        except Refused:
            return False
        return True

    return Target("wire from the hub", seeds, accepts)


def records(rng: random.Random) -> Target:
    """Stored values: an input is the number of a place and the record found there. One that is accepted must be the
    one that was written there."""
    script = Workload(rng.randrange(2**32))
    for _ in range(20):
        script.take()
    rows = rng.sample(sorted(script.rows.items()), min(SAMPLES, len(script.rows)))
    seeds = [bytes([n]) + pack(*place, body) for n, (place, body) in enumerate(rows)]
    bodies = dict(zip(seeds, (body for _, body in rows), strict=True))

    def accepts(content: bytes) -> bool:
        place = rows[content[0] % len(rows)][0] if content else rows[0][0]
        try:
            body = unpack(*place, content[1:])
        except (StoreDamaged, StoreVersion):
            return False
        written = bodies.get(bytes([content[0] % len(rows)]) + content[1:])
        assert body == written, "a record that nobody wrote was accepted"
        return True

    return Target("stored records", seeds, accepts)


def journal(rng: random.Random, folder: Path) -> Target:
    """Segments of the journal. A batch that is read must be one that was written, under its own number."""
    written: dict[int, bytes] = {}
    seeds = []
    for n in range(12):
        place = folder / f"seed-{n}"
        made = Journal(place)
        for sequence, batch in enumerate(
            Workload(n, body_bytes=20).batches(rng.randint(1, 6)), start=100 * n + 1
        ):
            made.append(batch, sequence)
            written[sequence] = _content(batch)
        made.close()
        seeds += [path.read_bytes() for _, path in segments(place)]
    tried = folder / "tried"
    tried.mkdir()
    segment = tried / f"journal-{1:020}.log"

    def accepts(content: bytes) -> bool:
        segment.write_bytes(content)
        whole = True
        try:
            survey(tried)
            for item in read_segment(segment):
                if isinstance(item, Unreadable):
                    whole = False
                else:
                    assert _content(decode(item)) == written.get(item.sequence), (
                        "a batch that nobody wrote was read"
                    )
        except (StoreVersion, StoreDamaged):
            return False
        return whole

    return Target("journal segments", seeds, accepts)


def settings(rng: random.Random, folder: Path) -> Target:
    """config.toml, with and without settings in the environment."""
    defaults = msgspec.to_builtins(config.Settings())
    seeds = []
    for _ in range(30):
        text = ""
        for section in rng.sample(sorted(defaults), 3):
            given = rng.sample(sorted(defaults[section]), min(3, len(defaults[section])))
            text += f"[{section}]\n" + "".join(
                f"{name} = {_toml(defaults[section][name])}\n" for name in given
            )
        seeds.append(text.encode())
    seeds += [b"hub = 1\n", b"[anthropic]\n", b"queue.lease_s = 60 # a comment\n", b'[hub]\nbind = """x"""\n']

    def accepts(content: bytes) -> bool:
        (folder / "config.toml").write_bytes(content)
        try:
            config.load(folder, ENVIRONMENT if rng.random() < 0.5 else {})
        except ConfigError:
            return False
        return True

    return Target("config.toml", seeds, accepts)


def keys(rng: random.Random, folder: Path) -> Target:
    """Key files, the hub's address and join codes: text that people copy and edit."""
    pair = auth.KeyPair(public="p" * 40, secret="s" * 40)
    address = auth.HubAddress(hub="tcp://127.0.0.1:7420", key=pair.public)
    code = auth.JoinCode(address=address.hub, hub_key=pair.public, secret=pair.secret, role=Role.host)
    home = config.Home(folder / "keys-home").prepare()
    seeds = [msgspec.json.encode(pair), msgspec.json.encode(address), code.text().encode()]

    def accepts(content: bytes) -> bool:
        for path in (home.keys / "host.key", home.run / "hub.json"):
            config.write_private(path, content) if not path.exists() else path.write_bytes(content)
        good = 0
        for read in (
            lambda: auth.load_key(home.keys / "host.key"),
            lambda: auth.read_hub_address(home),
            lambda: auth.parse_join_code(content.decode(errors="replace")),
        ):
            try:
                read()
                good += 1
            except ConfigError:
                pass
        return bool(good)

    return Target("keys and codes", seeds, accepts)


NO_ARRAYS = (None, 3, b"", b"1234", "text", [1, 2])
NUMBERS = (0, 1, 2, 5, 40, -1, -2, 15, 16, 2**12, 2**16, 2**20, 2**31, 10**15, 10**15 + 1, 2**63 - 1, -(2**63))
ARGUMENTS = {
    "set_host": 3, "set_agent": 4, "set_endpoint": 4, "set_failure": 3, "set_able": 3, "set_way": 6, "drop_way": 2,
    "drop_pool": 1, "set_repo": 2, "set_reach": 3, "set_also": 2, "parts": 4, "tops": 3,
}  # fmt: skip
CALLS = 40
EDGES = {"i": (-1, -2, 2**31 - 1, -(2**31)), "q": (-1, -2, 2**31 - 1, 2**63 - 1, -(2**63))}


def scheduler(rng: random.Random) -> Target:
    """Calls of the compiled scheduler: it answers as its twin in Python does, or refuses with it. An input is the
    seed of some calls; most have a number at the edge of its bounds, and most ticks are wrong in one place or two."""

    def accepts(content: bytes) -> bool:
        compiled, twin = sched.make_scheduler(), _pysched.Scheduler()
        calls = random.Random(content)
        taken = False
        for _ in range(CALLS):
            seed = calls.random()  # each gets buffers of its own: some are views of others
            name, arguments = _call(random.Random(seed))
            said = [_outcome(getattr(one, name), _call(random.Random(seed))[1]) for one in (compiled, twin)]
            assert said[0] == said[1], f"{name}{arguments}: compiled {said[0]}, its twin {said[1]}"
            taken |= name == "tick" and said[0] is not None
        return taken

    return Target("scheduler calls", [rng.randbytes(8) for _ in range(SAMPLES)], accepts)


def _outcome(call: Callable[..., Any], arguments: list[Any]) -> tuple[Any, list[list[int]]] | None:
    """What it answered and wrote, or None when it refused."""
    try:
        return call(*arguments), [list(each) for each in arguments if isinstance(each, array)]
    except (TypeError, BufferError, ValueError):
        return None


def _call(rng: random.Random) -> tuple[str, list[Any]]:
    if rng.random() < 0.2:
        return "tick", _tick(rng)
    name = rng.choice(tuple(ARGUMENTS))
    arguments: list[Any] = [
        rng.choice(NUMBERS) if rng.random() < 0.1 else rng.randrange(3) for _ in range(ARGUMENTS[name])
    ]
    if name == "set_repo":
        arguments.append([rng.choice((0, 1, 2, 2, -1, 2**20)) if rng.random() < 0.3 else 1])
    if name == "tops" and arguments[1] > 2:
        arguments[1] = -1
    return name, arguments


def _tick(rng: random.Random) -> list[Any]:
    tasks = rng.randrange(8)
    made: list[Any] = [
        array("i", [rng.randrange(4) for _ in range(tasks)]),
        array("i", [rng.randrange(-1, 3) for _ in range(tasks)]),
        array("i", [-7] * tasks),
        array("i", [-7] * tasks),
    ]
    for _ in range(rng.choice((0, 1, 1, 2))):
        _spoil(made, rng)
    return made


def _spoil(made: list[Any], rng: random.Random) -> None:
    at = rng.randrange(len(made))
    turn = rng.randrange(6)
    if turn == 0 and isinstance(made[at], array) and made[at]:
        made[at][rng.randrange(len(made[at]))] = rng.choice(EDGES.get(made[at].typecode, (1,)))
    elif turn == 1 and isinstance(made[at], array):
        made[at].extend(made[at][:1] or array(made[at].typecode, [0]))
    elif turn == 2 and isinstance(made[at], array) and made[at]:
        made[at].pop()
    elif turn == 3:
        made[at] = rng.choice((*NO_ARRAYS, array("b", [1]), array("I", [1]), array("d", [1.0])))
    elif turn == 4:
        made[at] = made[rng.randrange(len(made))]
    elif isinstance(made[at], array):
        view = memoryview(made[at])
        made[at] = rng.choice((view.toreadonly(), view[::2], view[::-1], view.cast("B")))


def targets(rng: random.Random, folder: Path) -> list[Target]:
    return [
        wire_to_hub(rng),
        wire_from_hub(rng),
        records(rng),
        journal(rng, folder),
        settings(rng, folder),
        keys(rng, folder),
        scheduler(rng),
    ]


def _content(batch: Batch) -> bytes:
    return msgspec.msgpack.encode(sorted((name, sorted(rows.items())) for name, rows in batch.changes()))


def _has_nan(content: bytes) -> bool:
    """Whether a float that is not equal to itself may be in it."""
    return b"\x7f\xf8" in content or b"\x7f\xc0" in content or b"\xff\xf8" in content


def _toml(value: Any) -> str:
    return msgspec.json.encode(value).decode()
