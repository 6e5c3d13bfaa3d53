"""Debian's docker-registry as an upstream, and as a mirror to compare with; a token server in front of it."""

from __future__ import annotations

import base64
import datetime
import json
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from real.image import Image
from real.program import Program, answers, free_port, run

BOX, MULTI, IMG = "library/box", "library/multi", "org/img"
"""The repositories of the tests' images: the first two on Docker Hub, the third on Quay."""

ISSUER = "the tests' token server"
SERVICE = "the tests' registry"

_ACCESS_LINE = re.compile(
    r'"(?P<method>[A-Z]+) (?P<target>\S+) HTTP/1\.[01]" (?P<status>\d{3}) (?P<size>\d+)'
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that a registry has answered, from its access log."""

    method: str
    target: str
    status: int
    size: int


class TokenServer:
    """Gives signed tokens to who knows the password (distribution's docs, Token Authentication
    Specification), with a key of its own that the registry trusts. Runs in a thread."""

    username = "mirror"

    def __init__(self, directory: Path) -> None:
        self.password = secrets.token_urlsafe(16)
        self.granted: list[str] = []
        """The scopes of all tokens given, in order."""
        self.refused = 0
        self.port = free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self.realm = f"{self.origin}/token"
        self.certificate = directory / "token.crt"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._chain = _self_signed(self._key)
        self.certificate.write_bytes(self._chain.public_bytes(Encoding.PEM))
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing: what matters is counted."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        status: int
        document: dict[str, Any]
        expected = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        if url.path != "/token" or request.headers["Authorization"] != f"Basic {expected}":
            self.refused += 1
            status, document = 401, {"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}
        else:
            scopes = [one for value in parse_qs(url.query).get("scope", []) for one in value.split()]
            self.granted.extend(scopes)
            status, document = 200, {"token": self._token(scopes), "expires_in": 300}
        body = json.dumps(document).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _token(self, scopes: list[str]) -> str:
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "sub": self.username,
            "aud": SERVICE,
            "iat": now,
            "nbf": now - 10,
            "exp": now + 300,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        chain = [base64.b64encode(self._chain.public_bytes(Encoding.DER)).decode()]
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"x5c": chain})


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - day).not_valid_after(now + day)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, SHA256())


@dataclass
class Registry:
    """One docker-registry. With `tokens` it demands Bearer tokens of that server; with `remote` it
    is a pull-through mirror of another registry, which may want tokens of `remote_tokens`."""

    home: Path
    tokens: TokenServer | None = None
    remote: str | None = None
    remote_tokens: TokenServer | None = None
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        config = self.home / "config.yml"
        config.write_text(json.dumps(self._config()))  # JSON is YAML
        self._program = Program(self.home, "docker-registry", "serve", config)

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.home / "storage")},
                "delete": {"enabled": True},
            },
            "http": {"addr": self.address},
        }
        if self.tokens is not None:
            config["auth"] = {
                "token": {
                    "realm": self.tokens.realm,
                    "service": SERVICE,
                    "issuer": ISSUER,
                    "rootcertbundle": str(self.tokens.certificate),
                }
            }
        if self.remote is not None:
            config["proxy"] = {"remoteurl": self.remote}
            if self.remote_tokens is not None:
                config["proxy"] |= {
                    "username": self.remote_tokens.username,
                    "password": self.remote_tokens.password,
                }
        return config

    @property
    def pid(self) -> int:
        return self._program.pid

    def start(self) -> None:
        if self.tokens is not None:
            self.tokens.start()
        self._program.start(lambda: answers(f"{self.url}/v2/", 200, 401))

    def stop(self) -> int | None:
        """Ends the registry, and its token server with it; gives the registry's exit code."""
        if self.tokens is not None:
            self.tokens.stop()
        return self._program.stop()

    def tail(self) -> str:
        """The end of its log."""
        return self._program.tail()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Down for as long as this lasts; back on the same ports after it."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def push(self, image: Image, repository: str, *tags: str) -> None:
        """Puts an image there as it is, every child of an index too."""
        for tag in tags:
            self.push_layout(image.source, f"{repository}:{tag}")

    def push_layout(self, source: str, name: str) -> None:
        """Puts what skopeo calls so there, byte for byte."""
        self._copy(source, name, "--all", "--preserve-digests")

    def push_chunked(self, source: str, name: str) -> None:
        """Puts what skopeo calls so there with layers compressed anew, as zstd:chunked."""
        self._copy(source, name, "--dest-compress-format", "zstd:chunked")

    def _copy(self, source: str, name: str, *how: str) -> None:
        credentials = []
        if self.tokens is not None:
            credentials = ["--dest-creds", f"{self.tokens.username}:{self.tokens.password}"]
        run(
            *("skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"),
            *(*how, *credentials, source, f"docker://{self.address}/{name}"),
        )

    def seen(self, *methods: str) -> list[Seen]:
        """What it was asked for content since it first started, in order; of these methods only,
        where some are named."""
        found = (_ACCESS_LINE.search(line) for line in self._program.log.read_text().splitlines())
        all_seen = (
            Seen(line["method"], line["target"], int(line["status"]), int(line["size"]))
            for line in found
            if line is not None and line["target"] != "/v2/"
        )
        return [one for one in all_seen if not methods or one.method in methods]
