"""What upstreams say they want to see, however they write it."""

from __future__ import annotations

import string

import pytest
from entrepot.proxy.upstream.challenge import Challenge, choose, parse
from hypothesis import given
from hypothesis import strategies as st

HUB = (
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
    'scope="repository:library/nginx:pull"'
)


def test_a_challenge_as_docker_hub_writes_it() -> None:
    assert parse([HUB]) == (
        Challenge(
            "bearer",
            {
                "realm": "https://auth.docker.io/token",
                "service": "registry.docker.io",
                "scope": "repository:library/nginx:pull",
            },
        ),
    )


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('BEARER Realm="r" , SERVICE = gcr.io', [("bearer", {"realm": "r", "service": "gcr.io"})]),
        (
            'Bearer scope="repository:a/b:pull,push",realm="r"',
            [("bearer", {"scope": "repository:a/b:pull,push", "realm": "r"})],
        ),
        (
            "Bearer realm=https://host:5000/token?x=1,service=s",
            [("bearer", {"realm": "https://host:5000/token?x=1", "service": "s"})],
        ),
        (r'Basic realm="say \"hi\" \\ there"', [("basic", {"realm": r'say "hi" \ there'})]),
        (
            'Basic realm="a", Bearer realm="b",service="c"',
            [("basic", {"realm": "a"}), ("bearer", {"realm": "b", "service": "c"})],
        ),
        ("Negotiate, Basic", [("negotiate", {}), ("basic", {})]),
        ('Negotiate oYGzMIGwoAMKAQ==, Basic realm="a"', [("negotiate", {}), ("basic", {"realm": "a"})]),
        (
            'Digest nonce="a",realm="d",Bearer realm="b"',
            [("digest", {"nonce": "a", "realm": "d"}), ("bearer", {"realm": "b"})],
        ),
        ('Basic realm="",, ,charset="UTF-8"', [("basic", {"realm": "", "charset": "UTF-8"})]),
        ('Bearer realm="first",realm="second"', [("bearer", {"realm": "first"})]),
        ("", []),
        (",,, ,", []),
    ],
)
def test_ways_to_write_a_challenge(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(found.scheme, found.parameters) for found in parse([header])] == expected


def test_several_lines_are_several_challenges() -> None:
    assert [found.scheme for found in parse(['Basic realm="a"', HUB])] == ["basic", "bearer"]


def test_bearer_is_preferred_but_only_with_a_realm() -> None:
    def chosen(*headers: str) -> str | None:
        found = choose(parse(headers))
        return found and found.scheme

    assert chosen('Basic realm="a"', HUB) == "bearer"
    assert chosen('Bearer service="x"', 'Basic realm="a"') == "basic"
    assert chosen('Bearer service="x"') is None
    assert chosen("Negotiate") is None


def test_a_quote_that_does_not_end_takes_nothing_else_with_it() -> None:
    assert parse(['Bearer service="s",realm="https://x'])[0].get("service") == "s"


def test_headers_longer_than_any_honest_one_are_not_read() -> None:
    assert parse(["Basic " * 10_000]) == ()
    assert len(parse(["Basic, " * 1000])) <= 16
    many = "Bearer " + ",".join(f"p{number}=1" for number in range(1000))
    assert len(parse([many])[0].parameters) <= 32


@given(st.lists(st.text(max_size=200), max_size=4))
def test_anything_may_come(headers: list[str]) -> None:
    choose(parse(headers))


@given(st.text(alphabet=' ,="\\Bearsicm/:ü\udc80\x00', max_size=300))
def test_anything_that_looks_like_a_challenge_may_come(header: str) -> None:
    for found in parse([header]):
        assert found.scheme == found.scheme.lower()


token = st.text(alphabet=string.ascii_letters + string.digits + "-._", min_size=1, max_size=12)
value = st.text(alphabet=st.characters(codec="latin-1", exclude_characters="\r\n\x00"), max_size=40)
written = st.lists(
    st.tuples(token, st.dictionaries(token.map(str.lower), value, min_size=1, max_size=5)),
    min_size=1,
    max_size=4,
)


@given(written, st.booleans())
def test_what_was_written_by_the_grammar_is_read(
    challenges: list[tuple[str, dict[str, str]]], one_line: bool
) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    lines = [
        f"{scheme} " + ", ".join(f"{name}={quoted(text)}" for name, text in parameters.items())
        for scheme, parameters in challenges
    ]
    found = parse([", ".join(lines)] if one_line else lines)
    assert [(one.scheme, one.parameters) for one in found] == [
        (scheme.lower(), parameters) for scheme, parameters in challenges
    ]
