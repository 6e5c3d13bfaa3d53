"""`entrepot serve` as processes: what the supervisor owns, and what becomes of it when one of them dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from entrepot.cache.directory import CacheDirectory
from stub_serving import PATIENCE, Program, serving, started, write_config


async def successor(program: Program, slot: int, dead: int) -> int:
    """Waits until somebody else serves a slot."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = (await program.workers()).get(slot, dead)
            if found != dead:
                return found
            await asyncio.sleep(0.05)  # the processes have no event for it


async def left(pid: int) -> None:
    """Waits for the end of a process that is no child of the test, be it that its parent has not asked for
    that yet."""
    while True:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except FileNotFoundError:
            return
        await asyncio.sleep(0.02)  # nobody tells of the end of another's child


class TestStart:
    async def test_says_what_it_is_and_what_to_do_first(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as program:
            status = await program.status()
            port = status["listen"].rpartition(":")[2]
            said = "\n".join(program.out)
            assert "mirrors docker.io" in said
            assert str(program.cache) in said
            assert f"docker pull localhost:{port}/docker.io/library/alpine" in said
            assert json.dumps({"registry-mirrors": [f"http://localhost:{port}"]}) in said
            assert f"docker pull host.docker.internal:{port}/docker.io/library/alpine" in said
            assert f'"insecure-registries": ["host.docker.internal:{port}"]' in said
            assert "clients at once" in said
            assert len(program.out) < 15
            assert program.errors == []

    @pytest.mark.parametrize("workers", [1, 2])
    async def test_lays_out_the_directory(self, tmp_path: Path, workers: int) -> None:
        async with serving(tmp_path, workers=workers) as program:
            assert program.cache.stat().st_mode & 0o777 == 0o700
            assert (program.cache / "control.sock").stat().st_mode & 0o777 == 0o600
            for folder in ("blobs", "partial", "index", "roots", "uploads"):
                assert (program.cache / folder).is_dir()
            program.signal(signal.SIGTERM)
            assert await program.ended() == 0
        assert not (program.cache / "control.sock").exists()

    @pytest.mark.parametrize("workers", [1, 2])
    async def test_a_taken_port_is_one_line_that_names_who_holds_it(
        self, tmp_path: Path, workers: int
    ) -> None:
        with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            async with started(tmp_path, "--listen", address, workers=workers) as program:
                assert await program.ended() == 1
        (line,) = program.errors
        assert f"{address} is taken by" in line
        assert f"(process {os.getpid()})" in line
        assert "--listen" in line

    async def test_a_taken_admin_port_likewise(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            async with started(tmp_path, "--admin", address) as program:
                assert await program.ended() == 1
        (line,) = program.errors
        assert f"(process {os.getpid()})" in line
        assert "--admin" in line

    async def test_a_second_server_on_the_directory_names_the_first(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as first:
            async with started(tmp_path) as second:
                assert await second.ended() == 1
            (line,) = second.errors
            assert f"(process {first.pid})" in line
            assert str(first.cache) in line
            assert await first.workers()

    async def test_a_command_that_holds_the_directory_is_named(self, tmp_path: Path) -> None:
        with CacheDirectory.open(tmp_path / "cache", "an entrepot command"):
            async with started(tmp_path) as program:
                assert await program.ended() == 1
        assert program.errors == [
            f"entrepot: {program.cache} is in use by an entrepot command (process {os.getpid()})"
        ]

    async def test_a_file_in_place_of_the_directory(self, tmp_path: Path) -> None:
        (tmp_path / "plain").write_text("")
        async with started(tmp_path, "--cache-dir", str(tmp_path / "plain" / "cache")) as program:
            assert await program.ended() in (1, 2)
        assert len(program.errors) == 1

    @pytest.mark.parametrize("workers", [1, 2])
    async def test_what_the_app_cannot_open_is_one_line(self, tmp_path: Path, workers: int) -> None:
        async with started(
            tmp_path, workers=workers, upstreams={"docker.io": {"prefix": "unopenable"}}
        ) as program:
            assert await program.ended() == 1
        assert program.errors == ["entrepot: the disk makes noises"]

    async def test_a_bad_configuration(self, tmp_path: Path) -> None:
        async with started(tmp_path, wokers=3) as program:
            assert await program.ended() == 2
        (line,) = program.errors
        assert "wokers" in line

    async def test_a_missing_configuration(self, tmp_path: Path) -> None:
        async with started(tmp_path, "--config", str(tmp_path / "none.yaml")) as program:
            assert await program.ended() == 2
        assert len(program.errors) == 1

    async def test_bad_flags_are_told_together(self, tmp_path: Path) -> None:
        async with started(tmp_path, "--listen", "nowhere", "--workers", "none") as program:
            assert await program.ended() == 2
        assert ["--listen" in program.errors[0], "--workers" in program.errors[1]] == [True, True]


class TestWorkers:
    async def test_are_as_many_processes_as_configured(self, tmp_path: Path) -> None:
        async with serving(tmp_path, workers=3) as program:
            workers = await program.workers()
            assert len(set(workers.values()) | {program.pid}) == 4
            async with program.connections() as connections:
                assert set(connections) == set(workers.values())

    async def test_one_is_the_server_itself(self, tmp_path: Path) -> None:
        async with serving(tmp_path, workers=1) as program, program.connections():
            one = await program.connected()
            assert one.pid == program.pid
            await one.session.close()

    async def test_a_killed_one_is_replaced_and_the_port_keeps_answering(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as program:
            before = await program.workers()
            os.kill(before[0], signal.SIGKILL)
            # Whichever listener a connection comes to: what waits at the dead one's is for its successor.
            connections = await asyncio.gather(*(program.connected() for _ in range(20)))
            for connection in connections:
                await connection.session.close()
            after = await successor(program, 0, before[0])
            assert {connection.pid for connection in connections} <= {*before.values(), after} - {before[0]}
            assert (await program.workers())[1] == before[1]
            assert "SIGKILL" in await program.says("another takes its place")
            assert (await program.metrics())["entrepot_worker_restarts_total"] == 1

    async def test_one_that_dies_again_and_again_ends_the_server(self, tmp_path: Path) -> None:
        async with started(tmp_path, upstreams={"docker.io": {"prefix": "deadly"}}) as program:
            assert await program.ended() == 1
        assert "died 5 times within 30 seconds" in program.errors[-1]
        assert program.errors[-1].startswith("entrepot: ")
        assert "exit code 3" in program.errors[-1]

    async def test_share_leases_and_what_is_remembered(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as program, program.connections() as connections:
            one, other = connections.values()
            async with one.begun("lease/tag:a") as answer:
                taking = asyncio.create_task(other.ask("take/tag:a"))
                done, _ = await asyncio.wait({taking}, timeout=0.3)
                assert not done
                again = await program.connected()
                while again.pid != one.pid:
                    await again.session.close()
                    again = await program.connected()
                await again.ask("release")
                await again.session.close()
                assert (await taking)["took"] == "tag:a"
                await answer.read()
            await one.ask("remember/token:x")
            assert (await other.ask("recall/token:x"))["value"] == str(one.pid)
            assert (await other.ask("recall/token:y"))["value"] is None

    async def test_leases_of_a_killed_one_are_free(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as program, program.connections() as connections:
            one, other = connections.values()
            async with one.begun("lease/tag:a"):
                taking = asyncio.create_task(other.ask("take/tag:a"))
                os.kill(one.pid, signal.SIGKILL)
                async with asyncio.timeout(PATIENCE):
                    assert (await taking)["took"] == "tag:a"

    async def test_a_waiter_that_goes_is_withdrawn(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as program, program.connections() as connections:
            one, other = connections.values()
            async with one.begun("lease/tag:a"):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await other.ask("take/tag:a")
                os.kill(one.pid, signal.SIGKILL)
            third = await program.connected()
            async with asyncio.timeout(PATIENCE):
                assert (await third.ask("take/tag:a"))["took"] == "tag:a"
            await third.session.close()

    async def test_share_generations(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as program, program.connections() as connections:
            one, other = connections.values()
            before = (await other.ask("generation"))["generation"]
            await one.ask("bump")
            after = (await other.ask("generation"))["generation"]
            assert after != before
            await other.ask("bump")
            assert (await one.ask("generation"))["generation"] not in (before, after)

    async def test_metrics_are_summed_and_outlive_a_worker(self, tmp_path: Path) -> None:
        name = 'entrepot_requests_total{kind="blob",outcome="hit",status="200",upstream="docker.io"}'
        async with serving(tmp_path) as program, program.connections() as connections:
            for connection in connections.values():
                await connection.ask("count")
            metrics = await program.metrics()
            assert metrics[name] == 2
            assert metrics['entrepot_client_bytes_total{upstream="docker.io"}'] == 20
            assert metrics['entrepot_request_seconds_count{kind="blob"}'] == 2
            assert metrics["entrepot_workers"] == 2
            resident = metrics["entrepot_resident_bytes"]
            slot, pid = next(iter((await program.workers()).items()))
            os.kill(pid, signal.SIGKILL)
            await successor(program, slot, pid)
            metrics = await program.metrics()
            assert metrics[name] == 2
            assert 0.5 < metrics["entrepot_resident_bytes"] / resident < 1.5

    async def test_a_stopped_one_holds_up_no_scrape(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as program:
            pid = next(iter((await program.workers()).values()))
            os.kill(pid, signal.SIGSTOP)
            try:
                async with asyncio.timeout(5):
                    for _ in range(3):
                        await program.metrics()
            finally:
                os.kill(pid, signal.SIGCONT)


class TestEnd:
    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_request_under_way_is_given_its_time(
        self, tmp_path: Path, workers: int, number: signal.Signals
    ) -> None:
        async with serving(tmp_path, workers=workers, drain="20s") as program:
            connection, release = await program.connected(), asyncio.Event()

            async def body() -> AsyncIterator[bytes]:
                yield b"a"
                await release.wait()
                yield b"b"

            listen = (await program.status())["listen"]
            session = connection.session
            async with session, session.post(connection.url + "upload", data=body()) as answer:
                program.signal(number)
                await refused(listen)
                async with program.control() as control, control.get("/readyz") as ready:
                    assert (ready.status, await ready.text()) == (503, "draining\n")
                release.set()
                assert json.loads(await answer.read())["got"] == 2
            assert await program.ended() == 0
        assert program.errors == []

    @pytest.mark.parametrize("workers", [1, 2])
    async def test_that_time_ends(self, tmp_path: Path, workers: int) -> None:
        async with serving(tmp_path, workers=workers, drain="300ms") as program:
            connection = await program.connected()
            async with connection.session, connection.begun("wait") as answer:
                program.signal(signal.SIGTERM)
                assert await program.ended() == 0
                with pytest.raises(aiohttp.ClientPayloadError):
                    await answer.read()

    @pytest.mark.parametrize("workers", [1, 2])
    async def test_a_second_signal_ends_it_at_once(self, tmp_path: Path, workers: int) -> None:
        async with serving(tmp_path, workers=workers, drain="10m") as program:
            connection = await program.connected()
            async with connection.session, connection.begun("wait"):
                listen = (await program.status())["listen"]
                program.signal(signal.SIGTERM)
                await refused(listen)
                program.signal(signal.SIGTERM)
                assert await program.ended() == 1
        assert not (program.cache / "control.sock").exists()

    async def test_workers_leave_when_the_supervisor_is_killed(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as program:
            workers = await program.workers()
            program.signal(signal.SIGKILL)
            assert await program.ended() == -signal.SIGKILL  # its output ends with the last of them
            async with asyncio.timeout(PATIENCE):
                for pid in workers.values():
                    await left(pid)
            async with serving(tmp_path) as next_one:
                assert await next_one.workers()

    async def test_its_successor_waits_for_the_workers_of_a_killed_one(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as program:
            connection = await program.connected()
            async with connection.session, connection.begun("wait"):  # which keeps its worker for a while
                program.signal(signal.SIGKILL)
                await program.process.wait()
                async with serving(tmp_path) as next_one:
                    assert await next_one.workers()


async def refused(listen: str) -> None:
    """Waits until nobody listens there."""
    host, _, port = listen.rpartition(":")
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except ConnectionRefusedError:
                return
            except ConnectionResetError:
                continue  # it was in the queue of the listener that was closed just then
            writer.close()
            await asyncio.sleep(0.02)  # the end of a listener has no event for others


class TestReload:
    @pytest.mark.parametrize("workers", [1, 2])
    async def test_a_good_file_is_in_force_everywhere(self, tmp_path: Path, workers: int) -> None:
        async with serving(tmp_path, workers=workers) as program:
            write_config(tmp_path, prefix="dockerhub", workers=workers)
            program.signal(signal.SIGHUP)
            await program.says("the configuration was read again")
            async with program.connections() as connections:
                for connection in connections.values():
                    assert (await connection.ask("prefixes"))["prefixes"] == ["dockerhub"]

    async def test_a_successor_has_the_new_one(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as program:
            write_config(tmp_path, prefix="dockerhub", workers=2)
            program.signal(signal.SIGHUP)
            await program.says("the configuration was read again")
            before = await program.workers()
            os.kill(before[0], signal.SIGKILL)
            after = await successor(program, 0, before[0])
            async with program.connections() as connections:
                assert (await connections[after].ask("prefixes"))["prefixes"] == ["dockerhub"]

    @pytest.mark.parametrize("workers", [1, 2])
    async def test_a_bad_file_leaves_the_old_in_force_and_says_so(self, tmp_path: Path, workers: int) -> None:
        async with serving(tmp_path, workers=workers) as program:
            write_config(tmp_path, wokers=3)
            program.signal(signal.SIGHUP)
            assert "wokers" in await program.says("is not taken")
            await program.says("the old configuration stays in force")
            async with program.connections() as connections:
                for connection in connections.values():
                    assert (await connection.ask("prefixes"))["prefixes"] == ["hub"]
            assert (await program.metrics())['entrepot_reloads_total{result="refused"}'] == 1

    @pytest.mark.parametrize("workers", [1, 2])
    async def test_one_that_a_worker_refuses_is_taken_back_everywhere(
        self, tmp_path: Path, workers: int
    ) -> None:
        async with serving(tmp_path, workers=workers) as program:
            write_config(tmp_path, prefix="refused", workers=workers)
            async with program.control() as session, session.post("/api/reload", json={}) as answer:
                assert answer.status == 422
                assert "not this one" in (await answer.json())["error"]
            async with program.connections() as connections:
                for connection in connections.values():
                    assert (await connection.ask("prefixes"))["prefixes"] == ["hub"]

    async def test_what_needs_a_restart_is_named(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as program:
            write_config(tmp_path, workers=1)
            async with program.control() as session, session.post("/api/reload", json={}) as answer:
                assert await answer.json() == {"reloaded": True}
            assert "workers" in await program.says("takes effect when the server is started again")
            assert len(await program.workers()) == 2
