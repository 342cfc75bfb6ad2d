"""Settings that were set at run time: checked, stored with who and when, and laid over those of the hub's start.

What applies is, from weakest to strongest: the default, config.toml, the environment, what was set at run time.
`unset` takes the last layer away. Every part of the core reads `settings` of its own; `Hub.adopt` gives all of them
the new ones at once, so a change holds from the next event on and is in the store with the tick that made it.
"""

from __future__ import annotations

from collections.abc import Mapping

from agentcom.clock import Now, rfc3339
from agentcom.config import Settings
from agentcom.core.outlet import Outlet
from agentcom.errors import Refused
from agentcom.model import JsonObject, PrincipalRecord, SettingRecord
from agentcom.settings import NAMES, Value, checked, is_local, known, names_under, value_of, with_values


class Configuration:
    """`base` is what the hub was started with, `sources` where that is not the default (config.toml or
    environment, by name), `stored` what was set since, `ignored` why a stored one does not apply."""

    def __init__(self, out: Outlet, base: Settings) -> None:
        self._out = out
        self.base = base
        self.sources: Mapping[str, str] = {}
        self.stored: dict[str, SettingRecord] = {}
        self.ignored: dict[str, str] = {}

    def load(self, stored: Mapping[str, SettingRecord]) -> Settings:
        """The settings that apply at start. A stored one that no longer fits (another version, another
        config.toml) is left where it is and does not apply: `ignored` says why."""
        self.stored = dict(stored)
        try:
            return with_values(self.base, {name: record.value for name, record in self.stored.items()})
        except Refused:
            return self._one_by_one()

    def _one_by_one(self) -> Settings:
        settings = self.base
        for name, record in sorted(self.stored.items()):
            try:
                settings = with_values(settings, {name: record.value})
            except Refused as refused:
                self.ignored[name] = refused.message
                self._out.publish("hub", "setting_ignored", name=name, reason=refused.message)
        return settings

    def change(
        self, wanted: Mapping[str, object], unset: tuple[str, ...], by: PrincipalRecord, now: Now
    ) -> Settings:
        """Store these and forget those, all or nothing; the settings that apply from now on. Refused says which
        key, which value and which bound."""
        for name in (*wanted, *unset):
            known(name)
            if is_local(name):
                raise Refused("local_setting", _local(name), field=name)
        twice = sorted(set(wanted) & set(unset))
        if twice:
            raise Refused("invalid", f"{twice[0]} is both set and unset; choose one", field=twice[0])
        values = {name: checked(name, value) for name, value in wanted.items()}
        kept = {name: record.value for name, record in self.stored.items()}
        kept = {name: value for name, value in kept.items() if name not in self.ignored and name not in unset}
        settings = with_values(self.base, kept | values, sent=(*wanted, *unset))
        for name, value in values.items():
            self._store(name, value, by, now)
        for name in unset:
            self._forget(name, by)
        return settings

    def view(self, prefix: str, current: Settings) -> JsonObject:
        """Each setting that a hub changes at run time, with where its value comes from."""
        return {name: self._view(name, current) for name in names_under(prefix) if not is_local(name)}

    def _store(self, name: str, value: Value, by: PrincipalRecord, now: Now) -> None:
        old = self._applied(name)
        if name in self.stored and name not in self.ignored and old == value:
            return  # nothing changes: what was before, who set it and when stay
        record = SettingRecord(value=value, was=old, by=by.name, at_ms=now.wall_ms)
        self.stored[name] = record
        self.ignored.pop(name, None)
        self._out.put("config", name.encode(), record)
        self._out.publish("hub", "setting_changed", name=name, was=old, value=value, by=by.name)

    def _forget(self, name: str, by: PrincipalRecord) -> None:
        if name not in self.stored:
            return
        old = self._applied(name)
        del self.stored[name]
        self.ignored.pop(name, None)
        self._out.delete("config", name.encode())
        value = value_of(self.base, name)
        self._out.publish("hub", "setting_changed", name=name, was=old, value=value, by=by.name)

    def _applied(self, name: str) -> Value:
        if name in self.stored and name not in self.ignored:
            return self.stored[name].value
        return value_of(self.base, name)

    def _view(self, name: str, current: Settings) -> JsonObject:
        record = self.stored.get(name)
        is_stored = record is not None and name not in self.ignored
        view: JsonObject = {
            "value": value_of(current, name),
            "source": "stored" if is_stored else self.sources.get(name, "default"),
            "default": NAMES[name].value,
            "unset_to": value_of(self.base, name),
        }
        if record is not None:
            view |= {"was": record.was, "by": record.by, "at": rfc3339(record.at_ms)}
        if name in self.ignored:
            view["ignored"] = self.ignored[name]
        return view


def _local(name: str) -> str:
    return (
        f"{name} belongs to one machine and is not changed over the hub; there: agentcom config set {name} VALUE, "
        "then restart what reads it"
    )
