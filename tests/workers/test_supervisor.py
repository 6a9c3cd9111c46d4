"""Workers are kept: started again when they end, replaced without a gap, and gone with the process above them."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.error
import urllib.request
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from commands import TIMEOUT
from prometheus_client.parser import text_string_to_metric_families
from supervised import Supervised, is_there, wait_until_gone

import taut
import taut.sync

from .conftest import Start


def processes_that_answer(server: Supervised, connections: int) -> Counter[int]:
    """Which workers get so many connections."""
    answers: Counter[int] = Counter()
    for _ in range(connections):
        with taut.sync.connect(server.uri) as ws:
            ws.send("hello")
            answers[int(str(ws.recv()).split()[0])] += 1
    return answers


def test_every_worker_serves(start: Start) -> None:
    server = start("app:handler", "--port", "0", "--workers", "3")
    workers = server.workers(3)
    assert "(3 workers, uvloop; Ctrl-C stops it)" in server.wait_for("serving app:handler on ")[0].string
    answers = processes_that_answer(server, 60)
    assert answers.keys() == set(workers)
    assert min(answers.values()) > 5  # of 20 that are to be expected
    assert server.finish() == 0
    assert not any(is_there(worker) for worker in workers)


def test_a_worker_that_is_killed_is_started_again(start: Start) -> None:
    server = start("app:handler", "--port", "0", "--workers", "2")
    first = server.workers(2)
    os.kill(first[0], signal.SIGKILL)
    server.wait_for(rf"worker \d \({first[0]}\) was ended by SIGKILL")
    (third,) = set(server.workers(3)) - set(first)
    assert processes_that_answer(server, 30).keys() == {first[1], third}
    # Its predecessor has not served for long, so that there is a pause now.
    os.kill(third, signal.SIGKILL)
    server.wait_for(r"worker \d starts again in 0\.5 s")
    (fourth,) = set(server.workers(4)) - {*first, third}
    assert processes_that_answer(server, 30).keys() == {first[1], fourth}
    assert server.finish() == 0


def test_a_worker_that_somebody_else_drains_is_replaced_at_once(start: Start) -> None:
    server = start("app:handler", "--port", "0", "--workers", "1")
    (first,) = server.workers()
    os.kill(first, signal.SIGTERM)
    second = server.workers(2)[1]
    assert processes_that_answer(server, 1).keys() == {second}
    assert server.finish() == 0


CRASHING = "import os\nos._exit(7)\n"


def test_it_gives_up_when_no_worker_ever_serves(start: Start, app: Path) -> None:
    app.write_text(CRASHING)
    server = start("app:handler", "--port", "0", "--workers", "2")
    assert server.finish(None) == 1
    assert len(server.wait_for(r"worker 0 \(\d+\) exited with status 7", 3)) == 3
    assert server.text.endswith("taut serve: no worker has ever served, the last one exited with status 7\n")


def test_a_worker_that_does_not_get_ready_is_killed(start: Start, app: Path) -> None:
    app.write_text("import time\ntime.sleep(600)\n")
    server = start("app:handler", "--port", "0", "--workers", "1", "--start-timeout", "0.1")
    assert server.finish(None) == 1
    assert "is not ready after 0.1 s: killed" in server.text


STUCK = """
import os, threading

async def handler(ws):
    async for message in ws:
        if message == "hang":
            hang()
        await ws.send(f"{os.getpid()} {message}")

def hang():
    threading.Event().wait()
"""


def test_a_worker_whose_event_loop_is_stuck_is_killed_and_says_where(start: Start, app: Path) -> None:
    app.write_text(STUCK)
    server = start("app:handler", "--port", "0", "--workers", "1", "--worker-timeout", "0.5")
    (first,) = server.workers()
    with taut.sync.connect(server.uri) as ws:
        ws.send("hang")
        (line,) = server.wait_for(rf"worker 0 \({first}\) is stuck, its event loop has not turned for 0\.5 s: killed")
        server.wait_for(r"app\.py\", line \d+ in hang")
        server.wait_for(rf"worker 0 \({first}\) was ended by SIGABRT")
    assert " ERROR " in line.string
    server.workers(2)
    assert processes_that_answer(server, 1)
    assert server.finish() == 0


def test_a_worker_that_cannot_even_be_aborted_is_killed(start: Start) -> None:
    server = start("app:handler", "--port", "0", "--workers", "1", "--worker-timeout", "0.5")
    (first,) = server.workers()
    os.kill(first, signal.SIGSTOP)
    server.wait_for(rf"worker 0 \({first}\) was ended by SIGKILL")
    assert server.workers(2)[1] != first
    assert server.finish() == 0


def test_a_worker_that_answers_stays(start: Start) -> None:
    """Also when the process that asks was stopped itself, for longer than the time limit."""
    server = start("app:handler", "--port", "0", "--workers", "1", "--worker-timeout", "0.2")
    server.workers()
    with taut.sync.connect(server.uri) as ws:
        for _ in range(3):
            server.popen.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(TimeoutError):
                    ws.recv(timeout=0.5)
            finally:
                server.popen.send_signal(signal.SIGCONT)
            with pytest.raises(TimeoutError):
                ws.recv(timeout=0.3)
        ws.send("hello")
        assert str(ws.recv()).endswith(" hello")
    assert "stuck" not in server.text
    assert server.finish() == 0


def test_workers_end_with_the_process_above_them(start: Start) -> None:
    server = start("app:handler", "--port", "0", "--workers", "2")
    workers = server.workers(2)
    with taut.sync.connect(server.uri) as ws:
        ws.send("hello")
        ws.recv()
        server.popen.kill()
        with pytest.raises(taut.ConnectionClosed):
            ws.recv()
        assert ws.close_code == 1012  # even so
    for worker in workers:
        wait_until_gone(worker)


def test_a_reload_brings_new_code_and_loses_nobody(start: Start, app: Path) -> None:
    """Under load: connections are opened all the time, and others that are open come back."""
    server = start("app:handler", "--port", "0", "--workers", "2", "--drain", "5")
    old = server.workers(2)
    app.write_text(app.read_text().replace("{os.getpid()} {message}", "{os.getpid()} new {message}"))

    reasons: list[object] = []
    opened = 0

    def left(reason: object, attempt: int) -> None:
        reasons.append(reason)

    async def stay(session: taut.Session, done: asyncio.Event) -> None:
        """Ask again and again; a question whose connection is closed before the answer is asked once more."""
        while not done.is_set():
            await session.send("hello")
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    assert str(await session.recv()).endswith("hello")

    async def come_and_go(done: asyncio.Event) -> None:
        nonlocal opened
        while not done.is_set():
            try:
                async with taut.connect(server.uri) as ws:
                    opened += 1
                    await ws.send("hello")
                    await ws.recv()
            except taut.ConnectionClosed as exc:
                reasons.append(exc)

    async def main() -> None:
        done = asyncio.Event()
        policy = taut.ReconnectPolicy(base_delay=0.01)
        async with AsyncExitStack() as stack:
            sessions = [
                await stack.enter_async_context(taut.Session(server.uri, policy=policy, on_disconnect=left))
                for _ in range(10)
            ]
            async with asyncio.TaskGroup() as group:
                for session in sessions:
                    group.create_task(stay(session, done))
                for _ in range(3):
                    group.create_task(come_and_go(done))
                server.interrupt(signal.SIGHUP)
                await asyncio.to_thread(server.wait_for, "reloaded")
                for worker in old:
                    await asyncio.to_thread(wait_until_gone, worker)
                done.set()
            for session in sessions:
                await session.send("last")
                while not str(answer := await session.recv()).endswith("last"):
                    pass  # of a question that was given up
                assert " new " in str(answer)

    asyncio.run(main())
    assert opened > 20
    assert len(reasons) >= 10
    assert {reason.code if isinstance(reason, taut.ConnectionClosed) else reason for reason in reasons} == {1012}
    assert len(server.workers(4)) == 4
    assert server.finish() == 0
    assert "Traceback" not in server.text


def test_a_reload_that_cannot_work_changes_nothing(start: Start, app: Path) -> None:
    server = start("app:handler", "--port", "0", "--workers", "2")
    workers = server.workers(2)
    app.write_text("")
    server.interrupt(signal.SIGHUP)
    server.wait_for("the old workers stay: the new one, .*: app has no attribute 'handler'")
    assert processes_that_answer(server, 20).keys() == set(workers)
    assert server.finish() == 0


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


def values(text: str) -> dict[str, float]:
    """What is counted, without regard to labels."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] += sample.value  # type: ignore[assignment]
    return dict(found)


def test_metrics_are_those_of_all_workers_together(start: Start) -> None:
    server = start("app:handler", "--port", "0", "--workers", "2", "--metrics-port", "0")
    url = server.wait_for(r"metrics on (http://\S+)/metrics")[0][1]
    first = server.workers(2)
    assert len(processes_that_answer(server, 20)) == 2
    with taut.sync.connect(server.uri):
        counted = values(fetch(f"{url}/metrics")[1])
        assert counted["taut_connections"] == 1
    assert counted["taut_workers"] == 2
    assert counted["taut_handshakes_total"] == 21
    assert counted["taut_messages_received_total"] == 20
    assert fetch(f"{url}/readyz") == (200, "ready\n")

    server.interrupt(signal.SIGHUP)
    server.wait_for("reloaded")
    for worker in first:
        server.wait_for(rf"worker \d \({worker}\), replaced, exited with status 0")
    assert len(processes_that_answer(server, 20)) == 2
    counted = values(fetch(f"{url}/metrics")[1])
    assert counted["taut_messages_received_total"] == 40
    assert counted["taut_worker_exits_total"] == 0

    os.kill(server.workers(4)[3], signal.SIGKILL)
    server.workers(5)
    counted = values(fetch(f"{url}/metrics")[1])
    assert counted["taut_messages_received_total"] == 40  # it was asked before
    assert counted["taut_worker_exits_total"] == 1
    assert server.finish() == 0


@pytest.mark.parametrize("workers", [[], ["--workers", "1"]], ids=["alone", "worker"])
def test_a_dump_of_connections(start: Start, workers: list[str]) -> None:
    server = start("app:handler", "--port", "0", "--metrics-port", "0", *workers)
    url = server.wait_for(r"metrics on (http://\S+)/metrics")[0][1]
    with taut.sync.connect(server.uri) as ws:
        server.interrupt(signal.SIGUSR1)
        server.wait_for(str(ws.local_address[1]))
        assert values(fetch(f"{url}/metrics")[1])["taut_connections"] == 1
        assert fetch(f"{url}/healthz") == (200, "ok\n")
    assert server.finish() == 0


SOMETIMES_BROKEN = """
import os
if os.environ["TAUT_WORKER"] == "1" and os.path.exists("broken"):
    os._exit(9)
"""


def test_while_one_worker_cannot_come_back_the_others_get_its_share(start: Start, app: Path) -> None:
    app.write_text(SOMETIMES_BROKEN + app.read_text())
    server = start("app:handler", "--port", "0", "--workers", "2")
    server.wait_for("serving app:handler on ")
    (second,) = (int(found[1]) for found in server.wait_for(r"worker 1 \((\d+)\) serves"))
    (first,) = set(server.workers(2)) - {second}
    (app.parent / "broken").touch()
    os.kill(second, signal.SIGKILL)
    server.wait_for(r"worker 1 starts again in 1 s")
    assert processes_that_answer(server, 20) == {first: 20}
    (app.parent / "broken").unlink()
    server.interrupt(signal.SIGHUP)  # does not wait for the pause to be over
    server.wait_for("reloaded")
    assert len(processes_that_answer(server, 30)) == 2
    assert server.finish() == 0
