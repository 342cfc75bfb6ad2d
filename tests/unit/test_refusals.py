"""What a peer is told of a field that cannot be taken: in words, and never by a pattern."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentcom import fields, signed_report
from agentcom import messages as m
from agentcom.refusals import refusal_of


def told(kind: type[Any], **given: Any) -> str:
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.convert({"op": kind.__struct_config__.tag, **given}, kind)
    return refusal_of(error.value).message


def test_a_field_that_has_a_form_is_told_in_words_what_it_looks_like() -> None:
    assert told(m.HostAcceptKey, host="box", key="zz").startswith("key: a signing key has 64 hex digits (0-9, a-f)")
    assert told(m.AgentCordon, agent="-a").startswith("agent: a name begins with a letter or a digit, and has after")
    checks = [{"kind": "No such"}]
    assert "kind: the name of a check begins with" in told(m.Submit, tasks=[{"description": "x", "checks": checks}])


@pytest.mark.parametrize("module", [fields, signed_report], ids=lambda module: module.__name__)
def test_each_form_on_the_wire_has_words(module: Any) -> None:
    for name, form in vars(module).items():
        patterns = [one.pattern for one in getattr(form, "__metadata__", ()) if getattr(one, "pattern", None)]
        for _pattern in patterns:
            with pytest.raises(msgspec.ValidationError) as error:
                msgspec.convert("\n", form)
            assert "regex" not in refusal_of(error.value).message, name
