"""What only a file can break: who may open it, what it holds, a disk that fails, other processes."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from agentcom.errors import StoreDamaged, StoreError, StoreFull, StoreLocked, StoreVersion
from agentcom.store import Database
from agentcom.store.lmdb_store import LmdbStore
from agentcom.store.place import file_system, has_room
from agentcom.store.record import key_u64, pack
from tests.contract.places import MAP_BYTES, TASKS, OnDisk, commit, commit_letters, raw, rows_of

ROOT = Path(__file__).parents[2]


# The file: who may open it, and what it is.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_nobody_else_may_read_the_store(path: Path) -> None:
    LmdbStore(path).close()
    assert mode_of(path) == 0o700
    assert {file.name: mode_of(file) for file in path.iterdir()} == {
        "data.mdb": 0o600,
        "lock.mdb": 0o600,
        "hub.lock": 0o600,
    }


def test_rights_that_others_had_are_taken_away(path: Path) -> None:
    LmdbStore(path).close()
    path.chmod(0o755)
    (path / "data.mdb").chmod(0o644)
    LmdbStore(path).close()
    assert (mode_of(path), mode_of(path / "data.mdb")) == (0o700, 0o600)


def test_the_large_map_takes_no_room_on_the_disk(path: Path) -> None:
    store = LmdbStore(path)
    assert store.stats()["map_bytes"] == 64 * 2**30
    assert (path / "data.mdb").stat().st_size < 2**20
    store.close()


def test_stale_readers_can_be_cleared_at_any_time(path: Path) -> None:
    store = LmdbStore(path)
    assert store.clear_stale_readers() == 0
    store.close()
    with pytest.raises(StoreError, match="it is closed"):
        store.clear_stale_readers()


def test_the_lock_names_the_process_that_holds_it(path: Path) -> None:
    store = LmdbStore(path)
    with pytest.raises(StoreLocked, match=f"process {os.getpid()} has it open"):
        LmdbStore(path)
    store.close()


def put_own_record(path: Path, key: bytes, body: bytes) -> None:
    """Write as the store would into its own database."""
    with raw(path) as environment, environment.begin(write=True) as transaction:
        own = environment.open_db(b"store", txn=transaction)
        transaction.put(key, pack("store", key, body), db=own)


def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(path: Path) -> None:
    LmdbStore(path, map_bytes=MAP_BYTES).close()
    put_own_record(path, b"format", (2).to_bytes(4, "big"))
    before = (path / "data.mdb").read_bytes()
    with pytest.raises(StoreVersion, match="format 2"):
        LmdbStore(path, map_bytes=MAP_BYTES)
    assert (path / "data.mdb").read_bytes() == before


def test_a_refused_store_is_not_left_locked(path: Path) -> None:
    LmdbStore(path, map_bytes=MAP_BYTES).close()
    put_own_record(path, b"format", (2).to_bytes(4, "big"))
    for _ in range(2):
        with pytest.raises(StoreVersion):
            LmdbStore(path, map_bytes=MAP_BYTES)
    put_own_record(path, b"format", (1).to_bytes(4, "big"))
    LmdbStore(path, map_bytes=MAP_BYTES).close()


def test_a_row_that_went_missing_behind_the_store_is_noticed_when_it_opens(path: Path) -> None:
    store = LmdbStore(path, map_bytes=MAP_BYTES)
    commit_letters(store)
    store.close()
    with raw(path) as environment, environment.begin(write=True) as transaction:
        transaction.delete(b"c", db=environment.open_db(b"tasks", txn=transaction))
    with pytest.raises(StoreDamaged, match="'tasks' has 4 rows, 5 were counted at batch 1"):
        LmdbStore(path, map_bytes=MAP_BYTES)


def test_a_database_that_an_older_program_did_not_have_is_added(path: Path) -> None:
    store = LmdbStore(path, map_bytes=MAP_BYTES)
    commit_letters(store)
    store.close()
    with raw(path) as environment, environment.begin(write=True) as transaction:
        transaction.drop(environment.open_db(b"idempotency", txn=transaction))
    store = LmdbStore(path, map_bytes=MAP_BYTES)
    assert (store.count(Database.IDEMPOTENCY), store.count(TASKS)) == (0, 5)
    commit(store, (Database.IDEMPOTENCY, b"key", b"1"))
    store.close()


@pytest.mark.parametrize("key", [b"format", b"state"])
def test_a_damaged_or_missing_record_of_the_store_itself_is_refused(path: Path, key: bytes) -> None:
    LmdbStore(path, map_bytes=MAP_BYTES).close()
    OnDisk(path).damage("store", key)
    with pytest.raises(StoreDamaged, match="of 'store'"):
        LmdbStore(path, map_bytes=MAP_BYTES)
    with raw(path) as environment, environment.begin(write=True) as transaction:
        transaction.delete(key, db=environment.open_db(b"store", txn=transaction))
    with pytest.raises(StoreDamaged, match="of 'store'"):
        LmdbStore(path, map_bytes=MAP_BYTES)


def test_a_file_of_another_program_is_refused(path: Path) -> None:
    path.mkdir()
    with raw(path) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"somebody's", b"row")
    with pytest.raises(StoreDamaged, match="not a store of AgentCom"):
        LmdbStore(path, map_bytes=MAP_BYTES)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.mkdir()
    (path / "data.mdb").write_bytes(b"certainly no pages of LMDB " * 1000)
    with pytest.raises(StoreDamaged):
        LmdbStore(path, map_bytes=MAP_BYTES)


def test_a_place_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot open"):
        LmdbStore(tmp_path / "file")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "smb3", "fuse.sshfs"])
def test_a_network_file_system_is_refused_before_anything_is_made(path: Path, kind: str) -> None:
    with pytest.raises(StoreError, match=f"network file system \\({kind}\\).*AGENTCOM_HOME"):
        LmdbStore(path, file_system_of=lambda _: kind)
    assert not path.exists()


@pytest.mark.parametrize("kind", ["ext4", "tmpfs", "overlay", "fuse.lxcfs", None])
def test_a_local_or_unknown_file_system_is_taken(path: Path, kind: str | None) -> None:
    LmdbStore(path, file_system_of=lambda _: kind).close()
    assert (path / "data.mdb").is_file()


def test_the_file_system_of_a_path_is_that_of_the_deepest_and_latest_mount(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        dedent("""\
            22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
            30 22 0:40 / /mnt/team rw master:2 shared:7 - nfs4 server:/team rw,vers=4.2
            31 30 0:41 / /mnt/team/local rw - xfs /dev/vdb rw
            32 22 0:42 / /mnt/with\\040space rw - cifs //server/share rw
            33 22 0:43 / /srv rw - autofs systemd-1 rw
            34 33 0:44 / /srv rw - nfs server:/srv rw
            """)
    )
    kinds = {
        "/home/user/.agentcom/store": "ext4",
        "/mnt/team": "nfs4",
        "/mnt/team/store": "nfs4",
        "/mnt/teams": "ext4",
        "/mnt/team/local/store": "xfs",
        "/mnt/with space/store": "cifs",
        "/srv/store": "nfs",
    }
    assert {place: file_system(Path(place), table) for place in kinds} == kinds


def test_where_the_system_lists_no_mounts_the_file_system_is_unknown(tmp_path: Path) -> None:
    assert file_system(tmp_path, tmp_path / "missing") is None


# The disk fails: LMDB's own descriptors are pointed elsewhere, so that its writes really fail.


@contextmanager
def descriptors_replaced(path: Path, substitute: str, flags: int, *, synchronous: bool) -> Iterator[None]:
    """Point descriptors of data.mdb at `substitute`: that for the pages, or that for the meta page."""
    data = str(path / "data.mdb")
    mine = [int(name) for name in os.listdir("/proc/self/fd") if _target(name) == data]
    chosen = [number for number in mine if _is_synchronous(number) == synchronous]
    assert chosen, "LMDB has no such descriptor open"
    saved = {number: os.dup(number) for number in chosen}
    other = os.open(substitute, flags)
    try:
        for number in chosen:
            os.dup2(other, number, inheritable=False)
        yield
    finally:
        for number, copy in saved.items():
            os.dup2(copy, number, inheritable=False)
            os.close(copy)
        os.close(other)


def _target(name: str) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except FileNotFoundError:  # the descriptor of the listing itself
        return None


def _is_synchronous(number: int) -> bool:
    return bool(fcntl.fcntl(number, fcntl.F_GETFL) & os.O_DSYNC)


@pytest.mark.parametrize("synchronous", [False, True], ids=["pages", "meta page"])
def test_a_full_disk_fails_the_commit_and_not_the_store(path: Path, synchronous: bool) -> None:
    """At the meta page LMDB gives the environment up: the store goes on with another one."""
    store = LmdbStore(path, map_bytes=MAP_BYTES)
    commit_letters(store, "ab")
    for _ in range(2):
        with descriptors_replaced(path, "/dev/full", os.O_WRONLY, synchronous=synchronous):
            with pytest.raises(StoreFull, match=os.strerror(errno.ENOSPC)):
                commit(store, (TASKS, b"a", b"changed"), (TASKS, b"c", b"C"))
            assert store.scan(TASKS) == rows_of("ab")
            assert (store.sequence, store.count(TASKS), store.writable) == (1, 2, True)
    commit_letters(store, "c")
    store.close()
    store = LmdbStore(path, map_bytes=MAP_BYTES)
    assert (store.sequence, store.scan(TASKS)) == (2, rows_of("abc"))
    store.close()


@pytest.mark.parametrize("synchronous", [False, True], ids=["pages", "meta page"])
def test_after_an_error_at_the_disk_nothing_is_acknowledged_until_a_new_start(
    path: Path, synchronous: bool
) -> None:
    store = LmdbStore(path, map_bytes=MAP_BYTES)
    commit_letters(store, "ab")
    with (
        descriptors_replaced(path, "/dev/null", os.O_RDONLY, synchronous=synchronous),
        pytest.raises(StoreError) as caught,
    ):
        commit_letters(store, "c")
    assert not isinstance(caught.value, StoreFull)
    assert not store.writable
    with pytest.raises(StoreError, match="stop and start again"):
        commit_letters(store, "c")
    store.close()
    store = LmdbStore(path, map_bytes=MAP_BYTES)
    assert (store.sequence, store.scan(TASKS)) == (1, rows_of("ab"))
    commit_letters(store, "c")
    store.close()


# Other processes.


def script(source: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python program in a process of its own, with the store imported."""
    prelude = """\
        import os, resource, sys
        from agentcom.errors import StoreError, StoreFull
        from agentcom.store import Batch
        from agentcom.store.lmdb_store import LmdbStore
        """
    program = dedent(prelude) + dedent(source)
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_second_process_is_refused_until_the_first_ends_even_by_a_kill(path: Path) -> None:
    holding = "store = LmdbStore(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with script(holding, path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreLocked, match=f"process {holder.pid} has it open"):
            LmdbStore(path)
        holder.kill()
        assert holder.wait() == -signal.SIGKILL
    LmdbStore(path).close()


@pytest.mark.parametrize("acknowledged", [1, 17, 120])
def test_what_was_committed_survives_kill_9(path: Path, acknowledged: int) -> None:
    committer = """
        store, sequence = LmdbStore(sys.argv[1]), 0
        while True:
            sequence += 1
            batch = Batch()
            for database in ("tasks", "lanes", "attempts"):
                batch.put(database, sequence.to_bytes(8, "big"), b"%d" % sequence * 100)
            batch.delete("lanes", (sequence - 3).to_bytes(8, "big")) if sequence > 3 else None
            store.commit(batch, sequence)
            print(sequence, flush=True)
        """
    with script(committer, path) as writer:
        assert writer.stdout is not None
        seen = [int(writer.stdout.readline()) for _ in range(acknowledged)]
        writer.kill()
        seen += [int(line) for line in writer.stdout if line.endswith("\n")]
        assert writer.wait() == -signal.SIGKILL
    assert seen == list(range(1, len(seen) + 1))
    store = LmdbStore(path)
    assert store.sequence in (len(seen), len(seen) + 1)  # the last may be stored and not yet acknowledged
    expected = [(key_u64(number), b"%d" % number * 100) for number in range(1, store.sequence + 1)]
    assert store.scan(TASKS) == store.scan(Database.ATTEMPTS) == expected
    assert store.scan(Database.LANES) == expected[-3:]
    store.close()


def test_a_forked_child_cannot_use_the_store_and_does_not_harm_its_parent(path: Path) -> None:
    forker = """
        store = LmdbStore(sys.argv[1])
        batch = Batch()
        batch.put("tasks", b"a", b"parent")
        store.commit(batch, 1)
        child = os.fork()
        if child == 0:
            refusals = 0
            for use in (lambda: store.commit(batch, 2), lambda: store.get("tasks", b"a"),
                        lambda: store.scan("tasks"), lambda: store.count("tasks"), lambda: store.stats(),
                        lambda: store.sequence):
                try:
                    use()
                except StoreError as error:
                    refusals += "forked" in str(error)
            store.close()
            sys.exit(refusals)
        refusals = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        store.commit(batch, 2)
        print(refusals, store.sequence, store.get("tasks", b"a"))
        """
    with script(forker, path) as parent:
        output, _ = parent.communicate(timeout=60)
    assert output == "6 2 b'parent'\n"


def test_a_forked_child_that_outlives_its_parent_does_not_hold_the_lock(path: Path) -> None:
    forker = """
        store = LmdbStore(sys.argv[1])
        if os.fork() == 0:
            print("child", flush=True)
            sys.stdin.read()
        else:
            os._exit(0)
        """
    with script(forker, path) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "child\n"
        parent.wait()
        LmdbStore(path).close()
        assert parent.stdin is not None
        parent.stdin.close()  # ends the child
        assert parent.stdout.read() == ""


def test_room_is_what_the_disk_would_really_give(path: Path) -> None:
    LmdbStore(path).close()
    before = sorted(path.iterdir())
    assert has_room(path, 1)
    assert not has_room(path, 2**62)
    assert sorted(path.iterdir()) == before


def test_a_file_size_limit_counts_as_a_full_disk(path: Path) -> None:
    limited = """
        store = LmdbStore(sys.argv[1], map_bytes=1 << 26)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        large, small = Batch(), Batch()
        large.put("tasks", b"large", bytes(1 << 22))
        small.put("tasks", b"small", b"fits")
        try:
            store.commit(large, 1)
        except StoreFull:
            print("full", store.sequence, store.count("tasks"))
        store.commit(small, 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.commit(large, 2)
        print(store.sequence, store.count("tasks"))
        """
    with script(limited, path) as process:
        output, _ = process.communicate(timeout=60)
    assert output == "full 0 0\n2 2\n"
