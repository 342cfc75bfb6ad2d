"""Secrets are taken out of texts by value and by form; ordinary text stays as it is."""

from __future__ import annotations

import base64
import itertools
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcom import redaction
from agentcom.redaction import MARK, Stream, redact_cut, redact_text, redact_values

KNOWN = "correct horse&battery/42"
PEM = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{'QUJD' * 30}\n{'REVG' * 30}\n-----END OPENSSH PRIVATE KEY-----"
SECRETS = {
    "Anthropic": "sk-ant-api03-AbCdEf-gh1jkl",
    "OpenAI": "sk-proj-abcDEF123456ghi",
    "GitHub": "ghp_0123456789abcdefABCDEF0123456789abcd",
    "GitHub, fine-grained": "github_pat_11ABCDE0000_abcdefghijklmnop",
    "GitLab": "glpat-abcDEF123456_ghiJKL",
    "AWS": "AKIAIOSFODNN7EXAMPLE",
    "Google": "AIza" + "Sy0123456789-abcdefghijklmnop_QRSTU",
    "Slack": "xoxb-123456789012-abcdefGHIJ",
    "Stripe": "sk_live_0123456789abcdefABCD",
    "npm": "npm_" + "a1B2" * 9,
    "PyPI": "pypi-" + "AgEIcHlwaS5vcmc" * 4,
    "Hugging Face": "hf_" + "a1B2c" * 7,
    "AgentCom": "act_0123456789abcdefABCDEF01",
    "join code": "acj1.lgAbCd0123456789.xyz",
    "JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4",
    "private key": PEM,
}
SENTENCES = {  # what holds the secret, and the secret
    "https://user:hunter2000@example.org/x.git": "hunter2000",
    "https://0123456789abcdef0123456789abcdef@example.org/x.git": "0123456789abcdef0123456789abcdef",
    "Authorization: Bearer abc.def-123456": "abc.def-123456",
    '{"authorization": "Basic dXNlcjpwdzEyMw=="}': "dXNlcjpwdzEyMw==",
    "x-api-key: 0123456789abcdef": "0123456789abcdef",
    "curl said: bearer 0123456789abcdefgh": "0123456789abcdefgh",
    "DEPLOY_TOKEN=abcdef0123456789": "abcdef0123456789",
}
ORDINARY = (
    "a task-oriented disk-usage-report-2026 for the risk-averse",
    "sk-learn and sk-something",
    "ssh://git@github.com/a/b.git and git@github.com:a/b.git",
    "http://127.0.0.1:7422/tasks/1?x=a@b",
    "the authorization: configured elsewhere",
    "commit 0123456789abcdef0123456789abcdef01234567",
    "tokens_in=1200 MAX_TOKENS=4096 API_KEY=$API_KEY",
    "def token(self): return self.password",
    "eyJ is how JSON begins in Base64",
    "Bearer of good news, basic training, digest cookies",
)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_values", {})
    monkeypatch.setattr(redaction, "_longest_first", ())
    redaction.learn(KNOWN)


@pytest.mark.parametrize("kind", SECRETS)
def test_a_key_is_known_by_its_form(kind: str) -> None:
    secret = SECRETS[kind]
    for text in (secret, f"before {secret} after", f'{{"x": "{secret}"}}', f"a={secret}\n"):
        clean = redact_text(text)
        assert secret not in clean
        assert MARK in clean
        assert clean.replace(MARK, secret) == text  # nothing else has changed


@pytest.mark.parametrize("sentence", SENTENCES)
def test_what_stands_where_secrets_stand_goes(sentence: str) -> None:
    clean = redact_text(sentence)
    assert SENTENCES[sentence] not in clean
    assert MARK in clean


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redact_text(text) == text
    stream = Stream()
    assert stream.add(text) + stream.end() == text


def test_a_known_value_goes_however_it_is_quoted() -> None:
    encoded = base64.b64encode(KNOWN.encode()).decode()
    text = f"plain {KNOWN} url {quote(KNOWN, safe='')} base64 {encoded}"
    assert redact_values(text) == f"plain {MARK} url {MARK} base64 {MARK}"


def test_values_are_learned_from_variables_that_are_named_like_secrets() -> None:
    redaction.learn_environment(
        {
            "MY_API_KEY": "value-one",
            "DB_PASSWORD": "value-two",
            "TOKEN_FILE": "value-three",
            "HOME": "value-four",
        }
    )
    assert (
        redact_values("value-one value-two value-three value-four") == f"{MARK} {MARK} value-three value-four"
    )


def test_values_are_learned_from_private_files() -> None:
    redaction.learn_file(b"first-line-secret\nsecond-line-secret\n")
    redaction.learn_file(b'{"public": "public-half-of-it", "secret": "secret-half-of-it"}')
    redaction.learn_file(b"\xff\xfe")
    clean = redact_values("second-line-secret, public-half-of-it, secret-half-of-it")
    assert clean == f"{MARK}, public-half-of-it, {MARK}"


def test_short_values_are_not_learned() -> None:
    redaction.learn("", "on", "verbose", "redacted")
    assert redact_values("on verbose [redacted]") == "on verbose [redacted]"


def test_what_a_gap_has_left_of_a_known_value_goes_too() -> None:
    text = f"head {KNOWN[:12]}\n[... 99 bytes left out ...]\n{KNOWN[-12:]} tail"
    assert redact_cut(text) == f"head {MARK}\n[... 99 bytes left out ...]\n{MARK} tail"


PLANTED = st.sampled_from([*SECRETS.values(), *SENTENCES, KNOWN, *ORDINARY])
TEXTS = st.lists(st.one_of(st.text(max_size=60), PLANTED), max_size=6).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(st.one_of(st.text(max_size=300), TEXTS))
def test_redacting_never_fails_and_twice_is_as_once(text: str) -> None:
    redaction.learn(KNOWN)
    clean = redact_text(text)
    assert redact_text(clean) == clean


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([*SECRETS.values(), KNOWN]),
    st.lists(st.integers(0, 400), max_size=5),
    st.text(max_size=20),
)
def test_a_secret_that_is_cut_across_pieces_of_a_stream_goes(
    secret: str, cuts: list[int], around: str
) -> None:
    redaction.learn(KNOWN)
    text = f"{around} {secret}\n{around}"
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    stream = Stream()
    out = "".join(stream.add(text[a:b]) for a, b in itertools.pairwise(places)) + stream.end()
    assert secret not in out
    assert out == redact_text(text)


def test_a_private_key_that_is_cut_anywhere_goes_with_its_last_line() -> None:
    for key in (each for each in SECRETS.values() if "PRIVATE KEY" in each):
        text = f"before {key}\nafter"
        for cut in range(len(text)):
            stream = Stream()
            assert stream.add(text[:cut]) + stream.add(text[cut:]) + stream.end() == redact_text(text)


def test_a_secret_of_several_words_that_ends_a_piece_goes_as_a_whole() -> None:
    redaction.learn("correct horse battery")
    stream = Stream()
    out = stream.add("it is correct horse battery") + stream.add("\nand so on") + stream.end()
    assert out == f"it is {redaction.MARK}\nand so on"


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_that_is_cut_anywhere_is_redacted_as_a_whole(sentence: str) -> None:
    text = f"so {sentence} it is"
    for cut in range(len(text)):
        stream = Stream()
        assert stream.add(text[:cut]) + stream.add(text[cut:]) + stream.end() == redact_text(text)


def test_a_stream_holds_a_bounded_part_back() -> None:
    stream = Stream()
    sent = sum(len(stream.add("x" * 1000)) for _ in range(50))
    assert sent >= 50_000 - 3 * redaction.HELD_CHARS
    stream = Stream()
    sent = sum(
        len(stream.add("-----BEGIN PRIVATE KEY-----\n" if not n else "abc " * 250)) for n in range(100)
    )
    assert sent > 50_000


X16 = "x" * 16
KEYS = ("sk-ant-abcdef1", "sk-abcdefghijk12", f"acj1.{X16}", *(f"{head}_{X16}" for head in (
    "act", "acs", "acl", "ghp", "gho", "ghu", "ghs", "ghr"
)))  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_line_of_the_hub_shows_no_key_of_the_common_kinds(key: str) -> None:
    assert redaction.redact_keys(f"on the host {key}, \nasked") == f"on the host {redaction.MARK}, \nasked"
