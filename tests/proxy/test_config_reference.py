"""The table of keys against the values that come out of it, the page printed from it, and the sample."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from entrepot.proxy.config import (
    CacheConfig,
    Config,
    Credential,
    LogConfig,
    Timeouts,
    UpstreamConfig,
    parse,
    read,
)
from entrepot.proxy.config.key import Key, NotBuilt, Place
from entrepot.proxy.config.keys import KEYS, keys_of
from entrepot.proxy.config.reference import reference

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "upstreams.yaml"


def built(place: Place) -> dict[str, Key]:
    return {name: key for name, key in keys_of(place).items() if not isinstance(key.value, NotBuilt)}


@pytest.mark.parametrize(
    ("place", "values", "made_by_the_reader"),
    [
        ("top", Config, {"source", "warnings", "_names"}),
        ("cache", CacheConfig, set()),
        ("log", LogConfig, set()),
        ("upstream", UpstreamConfig, {"name"}),
        ("timeout", Timeouts, set()),
        ("credentials", Credential, set()),
    ],
)
def test_the_table_covers_every_field(place: Place, values: type, made_by_the_reader: set[str]) -> None:
    fields = {field.name for field in dataclasses.fields(values)} - made_by_the_reader
    assert {key.attribute for key in built(place).values()} - {"defaults"} == fields


def test_what_stands_under_defaults_stands_under_an_upstream() -> None:
    assert set(keys_of("defaults")) <= set(keys_of("upstream"))


def test_each_row_is_whole() -> None:
    for key in KEYS:
        assert key.where
        if isinstance(key.value, NotBuilt):
            assert key.default is None
        else:
            assert key.meaning.endswith((".", "`."))
            assert key.shown or key.default is not None or not hasattr(key.value, "read"), key.name
    for place in {place for key in KEYS for place in key.where}:
        names = [key.name for key in KEYS if place in key.where]
        assert len(names) == len(set(names))


def test_only_keys_of_the_whole_server_need_a_restart() -> None:
    restart = {key.name: key.where for key in KEYS if not key.reloadable}
    assert restart == {
        "listen": ("top",),
        "admin": ("top",),
        "workers": ("top",),
        "dir": ("cache",),
    }, "a key that stands elsewhere must be compared in `reload`"


def test_the_page_of_all_keys_is_up_to_date() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == reference(), "python -m entrepot.proxy.config.reference > docs/configuration.md"


def test_the_sample_means_the_built_in_configuration() -> None:
    sample = dataclasses.replace(read(SAMPLE), source="built-in")
    assert sample == read(None)
    assert sample.warnings == ()


def test_the_sample_names_every_key() -> None:
    text = SAMPLE.read_text()
    named = set(re.findall(r"([a-z_]+):", text))
    missing = {
        name for place in ("top", "cache", "log", "defaults", "upstream", "timeout") for name in built(place)
    }
    missing |= {"username", "password_file", "password_env"}
    assert missing <= named
    marked = set(re.findall(r"#\s*([a-z_]+): [^#]*# \(restart\)", text))
    assert marked == {key.name for key in KEYS if not key.reloadable}


def test_what_the_sample_shows_is_true(tmp_path: Path) -> None:
    """Every line that is commented out can be used, and those said to be defaults are."""
    text = re.sub(r"(?m)^(\s*)#((?:  )*[a-z_][\w.:-]*:(?: .*)?)$", r"\1\2", SAMPLE.read_text())
    assert text.count("#") < SAMPLE.read_text().count("#") - 25
    (tmp_path / "secret").write_text("s")
    (tmp_path / "admin.token").write_text("t")
    text = text.replace("/run/secrets/hub", str(tmp_path / "secret")).replace(
        "ca_file: /etc/ssl/corp.pem", ""
    )
    shown, usual = parse(text, "u.yaml", tmp_path), read(None)
    assert shown.warnings == ()
    for name in ("listen", "admin", "drain", "trusted_proxies", "offline", "log"):
        assert getattr(shown, name) == getattr(usual, name)
    assert shown.cache.min_free == usual.cache.min_free
    assert shown.upstreams["quay.io"] == usual.upstreams["quay.io"]
    assert shown.upstreams["docker.io"].url == usual.upstreams["docker.io"].url
    assert shown.upstreams["registry.corp.example:5000"].url == "http://harbor.internal/dockerhub-proxy"
