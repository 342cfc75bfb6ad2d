"""What the Ollama stand-in has on its disk: models, their names, durations and options.

Names follow the server's rules: `[host/][namespace/]model[:tag]`, compared without regard to case, always
shown with a tag.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import Any

from tests.standins.serving import JsonObject, check_keys

GIB = 1024**3
UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
NAME_PART = re.compile(r"[a-z0-9_][a-z0-9_.\-]{0,79}", re.IGNORECASE)
HOST_PART = re.compile(r"[a-z0-9_][a-z0-9_.:\-]{0,349}", re.IGNORECASE)

INTEGER_OPTIONS = frozenset(
    [
        "num_ctx",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "num_thread",
        "draft_num_predict",
        "num_keep",
        "seed",
        "num_predict",
        "top_k",
        "repeat_last_n",
    ]
)
FLOAT_OPTIONS = frozenset(
    ["top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty"]
)
LOAD_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")


@dataclasses.dataclass(frozen=True)
class Model:
    """One model on disk. `size` and `size_vram` are bytes; models of one `digest` share one runner."""

    name: str
    digest: str = ""
    size: int = 2 * GIB
    size_vram: int | None = None  # None: all of it
    details: JsonObject = dataclasses.field(default_factory=dict)
    capabilities: tuple[str, ...] = ("completion", "tools")
    context_length: int = 131_072
    load_delay_s: float = 0.0
    load_error: str = ""
    warm: bool = False
    keep_alive: Any = None  # of a model that is warm at the start
    num_parallel: int | None = None  # None: the server's
    remote_host: str = ""

    def all_details(self) -> JsonObject:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "3.2B",
            "quantization_level": "Q4_K_M",
        } | self.details

    def tag(self) -> JsonObject:
        """Its entry in /api/tags."""
        entry: JsonObject = {
            "name": self.name,
            "model": self.name,
            "modified_at": "2026-08-21T10:00:00.000000000Z",
            "size": self.size,
            "digest": self.digest,
            "details": self.all_details() | {"context_length": self.context_length},
            "capabilities": list(self.capabilities),
        }
        return entry | (
            {"remote_host": self.remote_host, "remote_model": self.name} if self.remote_host else {}
        )

    def card(self) -> JsonObject:
        """The answer of /api/show."""
        family = str(self.all_details()["family"])
        card: JsonObject = {
            "license": "",
            "modelfile": f"FROM {self.name}\n",
            "parameters": "",
            "template": "{{ .Prompt }}",
            "details": self.all_details(),
            "model_info": {"general.architecture": family, f"{family}.context_length": self.context_length},
            "capabilities": list(self.capabilities),
            "modified_at": "2026-08-21T10:00:00.000000000Z",
        }
        return card | (
            {"remote_host": self.remote_host, "remote_model": self.name} if self.remote_host else {}
        )


def model_from(fields: JsonObject) -> Model:
    """Reads one model of a script. ValueError for an unknown key or a name that cannot be."""
    check_keys("model", fields, {field.name for field in dataclasses.fields(Model)})
    name = displayed_name(fields["name"])
    digest = fields.get("digest") or hashlib.sha256(name.encode()).hexdigest()
    capabilities = tuple(fields.get("capabilities", Model.capabilities))
    return Model(**fields | {"name": name, "digest": digest, "capabilities": capabilities})


def displayed_name(name: str) -> str:
    """`name` in its shortest form with its tag, in the case it has. ValueError for an impossible name."""
    name = name.strip().removeprefix("library/")
    if ":" not in name.rsplit("/", 1)[-1]:
        name += ":latest"
    *places, last = name.split("/")
    model, _, tag = last.partition(":")
    parts = [*places[-1:], model, tag]
    if len(places) > 2 or not all(NAME_PART.fullmatch(part) for part in parts):
        raise ValueError("invalid model name")
    if len(places) == 2 and not HOST_PART.fullmatch(places[0]):
        raise ValueError("invalid model name")
    return name


def key_of(name: str) -> str:
    """What two names have in common when they mean one model."""
    return displayed_name(name).lower()


def duration_s(value: Any) -> float:
    """A keep_alive in seconds: a number of seconds or a duration like "1h30m"; negative means for ever."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        raise ValueError("invalid type for keep_alive")
    text = value.strip()
    sign, digits = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if digits == "0":
        return 0.0
    if re.fullmatch(r"[\d.]+", digits):
        raise ValueError(f'time: missing unit in duration "{value}"')
    if not digits or DURATION.sub("", digits):
        raise ValueError(f'time: invalid duration "{value}"')
    return sign * sum(float(number) * UNITS_S[unit] for number, unit in DURATION.findall(digits))


def check_options(options: JsonObject) -> None:
    """ValueError for a known option of a wrong type; unknown options are passed over, as the server does."""
    for name, value in options.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name in INTEGER_OPTIONS and not is_number:
            raise ValueError(f'option "{name}" must be of type integer')
        if name in FLOAT_OPTIONS and not is_number:
            raise ValueError(f'option "{name}" must be of type float32')
        if name == "use_mmap" and not isinstance(value, bool):
            raise ValueError(f'option "{name}" must be of type boolean')
        if name == "stop" and not isinstance(value, list):
            raise ValueError(f'option "{name}" must be of type array')


def load_options(options: JsonObject, shift: bool, model: Model, num_ctx_default: int) -> JsonObject:
    """The options that a runner is started with; another value of any of them means a reload."""
    wanted: JsonObject = {name: options[name] for name in LOAD_OPTIONS if options.get(name) is not None}
    wanted["num_ctx"] = min(int(wanted.get("num_ctx", num_ctx_default)), model.context_length)
    if wanted.get("num_gpu", -1) < 0:
        wanted.pop("num_gpu", None)  # "you choose" never forces a reload
    return wanted | {"shift": shift}


DEFAULT_MODELS: list[JsonObject] = [
    {"name": "llama3.2:3b"},
    {
        "name": "qwen2.5-coder:7b",
        "size": 5 * GIB,
        "capabilities": ["completion", "tools", "insert"],
        "context_length": 32_768,
        "details": {"family": "qwen2", "families": ["qwen2"], "parameter_size": "7.6B"},
    },
]
