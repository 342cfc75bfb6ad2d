from array import array
from collections.abc import Iterable

def unpack_all(
    records: Iterable[tuple[bytes, bytes]], seed: int, version: int
) -> list[tuple[bytes, bytes]] | None: ...

class RowReader:
    def __init__(self, kinds: bytes, required: int, names: list[list[bytes]]) -> None: ...
    def read(
        self, bodies: list[bytes]
    ) -> tuple[list[array[int] | None], list[tuple[str, ...]]] | None: ...
