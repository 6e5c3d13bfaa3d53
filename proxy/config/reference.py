"""Prints `docs/configuration.md` from the table of keys: `python -m entrepot.proxy.config.reference`."""

from __future__ import annotations

from typing import Final

from .key import Key, NotBuilt, Place, Scalar, Section, Several, Single, TagDurations
from .keys import KEYS, keys_of

_HEAD: Final = """\
# Configuration

<!-- Printed by `python -m entrepot.proxy.config.reference` from the table in `proxy/config/keys.py`. -->

The mirror reads the file named by `--config`; else `./upstreams.yaml`; else `/etc/entrepot/upstreams.yaml`;
else it mirrors Docker Hub, Quay, GHCR, registry.k8s.io, ECR Public and MCR anonymously. A flag beats the
file. `entrepot check` reads it as the server would, and says what is wrong with it: all of it at once, each
mistake with its line, exit code 2. [`upstreams.yaml`](../upstreams.yaml) is a sample to begin with.

The file is read again on SIGHUP. A new file with a mistake in it leaves the old one in force. Keys marked
*restart* take effect when the server is started again.

## How values are written

- **Sizes**: `500MB`, `50GiB`, `1.5TiB`. `GiB` counts by 1024, `GB` by 1000; a bare `G` is refused.
- **Durations**: `500ms`, `30s`, `15m`, `1h30m`, `7d`, `2w`. A unit is needed, but for `0`.
- **Paths** are relative to the file; `~/` is the user's home.
- **Lists**: where a list stands, one value may stand.
- **`${NAME}`** in a value is replaced from the environment; a variable that is not set is a mistake. `$${`
  stands for `${`. Within `{…}` or `[…]` of YAML it must be in quotes.
- **Quotes** make no difference to a value, but one that begins with `*`, `&`, `!`, `@`, `%` or a backtick
  needs them. YAML's anchors, aliases, tags and merging are not read; `defaults:` is for what repeats itself.
- **Passwords** come from `password_file` (its content is read again when it changes), from `password_env`, or
  from `password: ${NAME}`. A password written into the file works, with a warning.
"""

_TITLES: Final[tuple[tuple[Place, str, str], ...]] = (
    ("top", "At the top", ""),
    ("cache", "Under `cache:`", ""),
    (
        "upstream",
        "Under an upstream",
        "An upstream's name is the registry as it stands at the head of an image reference: lower case, with "
        "its port if it has one. `index.docker.io` and `registry-1.docker.io` are other names of "
        "`docker.io`. What may stand under `defaults:` may stand here too, and is stronger; of `timeout:`, "
        "key by key.",
    ),
    ("credentials", "Under `credentials:`", "A user name, and one of the three ways to a password."),
    ("defaults", "Under `defaults:`, or under an upstream", ""),
    ("timeout", "Under `timeout:`", ""),
    ("log", "Under `log:`", ""),
)


def reference() -> str:
    """The whole page."""
    parts = [_HEAD]
    for place, title, text in _TITLES:
        rows = [key for key in keys_of(place).values() if not isinstance(key.value, NotBuilt)]
        if place == "upstream":
            rows = [key for key in rows if "defaults" not in key.where]
        parts.append(f"## {title}\n")
        if text:
            parts.append(f"{text}\n")
        parts.append("| key | value | default | meaning |\n|---|---|---|---|")
        parts.append("\n".join(_row(key) for key in rows) + "\n")
    later = sorted({key.name for key in KEYS if isinstance(key.value, NotBuilt)})
    parts.append("## Not built yet\n")
    parts.append("These are refused by name: " + ", ".join(f"`{name}`" for name in later) + ".\n")
    return "\n".join(parts)


def _row(key: Key) -> str:
    meaning = key.meaning if key.reloadable else f"{key.meaning} *Restart.*"
    return (
        "| "
        + " | ".join(_cell(text) for text in (f"`{key.name}`", _form(key), _default(key), meaning))
        + " |"
    )


def _form(key: Key) -> str:
    match key.value:
        case Scalar(form) | Single(Scalar(form)):
            return form
        case Several(Scalar(form)):
            return f"{form}, or several"
        case Section():
            return "keys of its own"
        case TagDurations():
            return "duration, or durations by tag"
        case NotBuilt():
            return ""


def _default(key: Key) -> str:
    return key.shown or (f"`{key.default}`" if isinstance(key.default, str) else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
