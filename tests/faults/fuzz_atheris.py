"""The targets of the fuzzer driven by coverage, for runs of hours: needs the extra `fuzz`.

    pip install 'agentcom[fuzz]'
    python -m tests.faults.fuzz_atheris "wire to the hub" [CORPUS_FOLDER] [-max_total_time=SECONDS] [-runs=N]

All that follows the name goes to libFuzzer. An input that crashes is left in the current folder as crash-HASH.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["agentcom", "msgpack", "tomllib"]):
    from tests.faults.fuzz import SHARES
    from tests.faults.fuzz_core import core
    from tests.faults.fuzz_targets import Target, targets

SEED = 1


def target_of(name: str, folder: Path) -> Target:
    found = {each.name: each for each in (*targets(random.Random(SEED), folder), core(SEED))}
    if name not in found:
        sys.exit(f"no target {name!r}; there is {', '.join(SHARES)}")
    return found[name]


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    with tempfile.TemporaryDirectory() as folder:
        target = target_of(name, Path(folder))
        corpus = Path(folder) / "seeds"
        corpus.mkdir()
        for number, seed in enumerate(target.seeds):
            (corpus / f"seed-{number}").write_bytes(seed)

        def one_input(content: bytes) -> None:
            target.accepts(content)

        atheris.Setup([sys.argv[0], *sys.argv[2:], str(corpus)], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
