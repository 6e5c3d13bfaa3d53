"""A data plane that does what a test tells it by the path, in place of the registry's own."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from aiohttp import web
from entrepot.cache.clock import Clock
from entrepot.cache.errors import StorageBroken
from entrepot.cache.generation import Generations
from entrepot.cache.lease import Leases
from entrepot.proxy.config import Config
from entrepot.proxy.metrics import Metrics


class StubApp:
    """Answers with its process id, holds leases, counts, waits."""

    def __init__(self, config: Config, leases: Leases, generations: Generations, metrics: Metrics) -> None:
        self.config = config
        self.leases = leases
        self.generations = generations
        self.metrics = metrics
        self.release = asyncio.Event()

    @classmethod
    async def open(
        cls, config: Config, *, leases: Leases, generations: Generations, metrics: Metrics, clock: Clock
    ) -> StubApp:
        if "unopenable" in config.upstreams["docker.io"].prefixes:
            raise StorageBroken("the disk makes noises")
        if "deadly" in config.upstreams["docker.io"].prefixes:
            asyncio.get_running_loop().call_later(0.05, os._exit, 3)
        return cls(config, leases, generations, metrics)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        what, _, key = request.path.strip("/").partition("/")
        value: dict[str, Any] = {"pid": os.getpid()}
        if what == "count":
            self.metrics.request_done(
                upstream="docker.io",
                kind="blob",
                status=200,
                outcome="hit",
                sent=10,
                seconds=0.1,
                first_byte=0.1,
            )
        elif what == "wait":
            response = await _begun(request)
            await self.release.wait()
            return await _ended(response, value)
        elif what == "upload":
            response = await _begun(request)
            value["got"] = len(await request.read())
            return await _ended(response, value)
        elif what == "lease":
            async with self.leases.lease(key):
                response = await _begun(request)
                await self.release.wait()
                return await _ended(response, value)
        elif what == "release":
            self.release.set()
        elif what == "take":
            async with self.leases.lease(key):
                value["took"] = key
        elif what == "remember":
            await self.leases.remember(key, str(os.getpid()), 60)
        elif what == "recall":
            value["value"] = await self.leases.recall(key)
        elif what == "bump":
            self.generations.bump(1)
        elif what == "generation":
            value["generation"] = self.generations.read(1)
        elif what == "prefixes":
            value["prefixes"] = self.config.upstreams["docker.io"].prefixes
        return web.Response(text=json.dumps(value), content_type="application/json")

    async def reload(self, config: Config) -> None:
        if "refused" in config.upstreams["docker.io"].prefixes:
            raise StorageBroken("not this one")
        self.config = config

    async def drain(self) -> None:
        return

    async def close(self) -> None:
        self.release.set()

    def status(self) -> dict[str, Any]:
        return {"stub": True}


async def _begun(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"{")
    return response


async def _ended(response: web.StreamResponse, value: dict[str, Any]) -> web.StreamResponse:
    await response.write(json.dumps(value)[1:].encode())
    await response.write_eof()
    return response


if __name__ == "__main__":
    import argparse
    import sys

    from entrepot.proxy.cli import serve

    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    sys.exit(serve.run(parser.parse_args(), app="server_stub:StubApp"))
