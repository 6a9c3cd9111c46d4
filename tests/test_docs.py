"""The documentation is held to the code: its programs run, its reference is complete, its links lead somewhere.

The word after ``python`` in the info string of a fenced block says what it is:

    python          compiled, with a top-level ``await`` allowed
    python run      a complete program: run, and its output compared with the ``output`` block that follows, if any
    python server   a program that serves on port 8765 until it is interrupted
    python client   a program for the ``server`` block before it

Programs run in processes of their own in which any warning is an error.  Servers get port 0 instead of 8765, and tell
in their log which port they got.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import os
import re
import runpy
import signal
import subprocess
import sys
import tomllib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from pages import BLOCKS, PAGES, ROOT, Block, anchor, headings, named, prose

EXAMPLES = ROOT / "examples"
PYTHON = [sys.executable, "-X", "dev", "-W", "error"]
TIMEOUT = 30

# -- programs --------------------------------------------------------------------------------------------------


def finish(arguments: list[str], directory: Path, typed: str = "") -> tuple[int, str, str]:
    """Run Python to its end, with ``typed`` as its input: exit status, stdout, stderr."""
    done = subprocess.run(
        [*PYTHON, *arguments],
        cwd=directory,
        env=os.environ | {"PYTHONUTF8": "1"},
        check=False,
        input=typed,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=TIMEOUT,
    )
    return done.returncode, done.stdout, done.stderr


def run(program: str, directory: Path) -> str:
    """Run a program to its end, and return what it printed."""
    status, printed, problems = finish(["-c", program], directory)
    assert (status, problems) == (0, "")
    return printed


@contextlib.contextmanager
def serving(arguments: list[str], directory: Path, stream: str, pattern: str) -> Generator[tuple[str, list[str]]]:
    """Run a server, give the port that it prints and a list for the rest of what it prints, and end it with Ctrl-C."""
    with subprocess.Popen(
        [*PYTHON, *arguments],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            seen, rest = "", list[str]()
            for line in getattr(process, stream):
                seen += line
                if found := re.search(pattern, line):
                    break
            else:
                raise AssertionError(f"the server ended without naming its port: {seen}")
            yield found[1], rest
            process.send_signal(signal.SIGINT)
            rest += process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()


BEFORE_SERVER = "import logging\nlogging.basicConfig(level=logging.INFO)\n"


@contextlib.contextmanager
def serving_block(block: Block, directory: Path) -> Generator[tuple[str, list[str]]]:
    assert block.text.count("8765") == 1
    program = BEFORE_SERVER + block.text.replace("8765", "0")
    with serving(["-c", program], directory, "stderr", r"server listening on 127\.0\.0\.1:(\d+)") as port:
        yield port


ECHO = """
import asyncio, taut

async def main():
    async with taut.connect("ws://127.0.0.1:8765/") as ws:
        await ws.send("ping?")
        print(await ws.recv())

asyncio.run(main())
"""


def with_info(info: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.info == info]


@pytest.mark.parametrize("block", with_info("python run"))
def test_a_program_runs_and_prints_what_the_page_says(block: Block, tmp_path: Path) -> None:
    printed = run(block.text, tmp_path)
    following = BLOCKS[BLOCKS.index(block) + 1 :][:1]
    if following and following[0].info == "output":
        assert printed == following[0].text


@pytest.mark.parametrize("block", with_info("python server"))
def test_a_server_serves(block: Block, tmp_path: Path) -> None:
    with serving_block(block, tmp_path) as (port, _):
        assert run(ECHO.replace("8765", port), tmp_path) == "ping?\n"


@pytest.mark.parametrize("block", with_info("python client"))
def test_a_client_talks_to_the_server_before_it(block: Block, tmp_path: Path) -> None:
    server = [other for other in BLOCKS[: BLOCKS.index(block)] if other.info == "python server"][-1]
    assert server.page == block.page
    assert block.text.count("8765") == 1
    with serving_block(server, tmp_path) as (port, _):
        assert run(block.text.replace("8765", port), tmp_path) == "hello\n"


@pytest.mark.parametrize("block", [pytest.param(b, id=str(b)) for b in BLOCKS if b.info.startswith("python")])
def test_a_block_compiles(block: Block) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compile(block.text, str(block), "exec", flags=flags, dont_inherit=True)


def test_every_block_is_of_a_known_kind() -> None:
    known = {"", "python", "python run", "python server", "python client", "output"}
    known |= {"nginx", "nginx main", "haproxy"}  # see interop/test_deployment.py
    known |= {"systemd", "dockerfile", "yaml"}  # see workers/test_deployed.py
    known |= {"javascript"}  # see interop/test_chromium_closing.py
    assert [str(block) for block in BLOCKS if block.info not in known] == []
    for before, block in itertools.pairwise(BLOCKS):
        if block.info == "output":
            assert (before.info, before.page) == ("python run", block.page), str(block)


# -- examples --------------------------------------------------------------------------------------------------


def example(name: str) -> list[str]:
    return [str(EXAMPLES / name), "0"]


LISTENING = r"listening on ws://127\.0\.0\.1:(\d+)/$"


@pytest.mark.parametrize("name", ["echo_server.py", "listener_server.py"])
def test_the_example_client_talks_to_the_example_servers(name: str, tmp_path: Path) -> None:
    with serving(example(name), tmp_path, "stdout", LISTENING) as (port, rest):
        client = [str(EXAMPLES / "echo_client.py"), f"ws://127.0.0.1:{port}/"]
        status, printed, problems = finish(client, tmp_path)
    assert (status, problems) == (0, "")
    lines = printed.splitlines()
    assert lines[:3] == ["text: héllo", r"binary: b'\x00\x01\x02\x03'", "fragmented: in three fragments"]
    assert re.fullmatch(r"round trip: \d+\.\d{3} ms", lines[3])
    assert lines[4:] == ["closed by this side: 1000 (normal closure)"]
    if name == "listener_server.py":
        assert rest == ["3 messages echoed; closed by the peer: 1000 (normal closure)\n", ""]
    else:
        assert rest == ["", ""]


def test_the_example_client_says_in_one_line_that_nobody_listens(tmp_path: Path) -> None:
    status, printed, problems = finish([str(EXAMPLES / "echo_client.py"), "ws://127.0.0.1:1/"], tmp_path)
    assert (status, printed) == (1, "")
    assert re.fullmatch(r"cannot connect to ws://127\.0\.0\.1:1/: .+\n", problems)


CHAT = """
import asyncio, taut

async def main():
    async with taut.connect("ws://127.0.0.1:8765/kitchen") as ann:
        print(await ann.recv())
        async with taut.connect("ws://127.0.0.1:8765/kitchen") as bob, taut.connect("ws://127.0.0.1:8765/hall") as eve:
            print(await ann.recv(), await bob.recv(), await eve.recv())
            await bob.send("anybody?")
            print(await ann.recv(), await bob.recv())
            await eve.send("nobody")
            print(await eve.recv())
            bob.abort()
            await bob.wait_closed()
        await ann.send("alone")
        print(await ann.recv())

asyncio.run(main())
"""


def test_the_example_chat_keeps_rooms_apart(tmp_path: Path) -> None:
    with serving(example("chat_server.py"), tmp_path, "stdout", LISTENING) as (port, rest):
        printed = run(CHAT.replace("8765", port), tmp_path)
    assert printed.splitlines() == ["1 here", "2 here 2 here 1 here", "anybody? anybody?", "nobody", "alone"]
    assert rest == ["", ""]


def test_the_example_of_market_data_misses_nothing_though_it_is_dropped(tmp_path: Path) -> None:
    with serving([*example("market_feed.py"), "20"], tmp_path, "stdout", LISTENING) as (port, rest):
        client = [str(EXAMPLES / "market_client.py"), f"ws://127.0.0.1:{port}/", "50"]
        status, printed, problems = finish(client, tmp_path)
    assert status == 0, problems
    assert re.fullmatch(r"([2-9]|\d\d) drops, last tick \d+\nACME +\d+\.\d\d\nINITECH +\d+\.\d\d\n", printed)
    told = [line.partition(": ")[2] for line in problems.splitlines()]
    assert set(told) == {"closed by the peer: 1012 (service restart) restarting, as always"}
    assert rest == ["", ""]


def test_the_example_chat_client_chats(tmp_path: Path) -> None:
    with serving(example("chat_server.py"), tmp_path, "stdout", LISTENING) as (port, rest):
        client = [str(EXAMPLES / "chat_client.py"), f"ws://127.0.0.1:{port}/"]
        status, printed, problems = finish(client, tmp_path, "anybody?\nnobody\n")
    assert (status, printed.splitlines()[:1]) == (0, ["1 here"])
    assert problems.splitlines() == ["-- open", "-- closing", "-- closed"]
    assert rest == ["", ""]


def test_the_example_of_json_rpc_answers_every_call(tmp_path: Path) -> None:
    with serving(example("jsonrpc_server.py"), tmp_path, "stdout", LISTENING) as (port, rest):
        status, printed, problems = finish([str(EXAMPLES / "jsonrpc_client.py"), f"ws://127.0.0.1:{port}/"], tmp_path)
    assert (status, problems) == (0, "")
    assert printed.splitlines() == [
        "sums: 0 2 4 6 8 10 12 14 16 18",
        "fast: DONE",
        "slow: slept 0.1 s",
        "error: division by zero (-32000)",
    ]
    assert rest == ["", ""]


VISIT = """
import asyncio, taut

async def main():
    async with taut.connect("ws://127.0.0.1:8765/rooms/kitchen") as ws:
        print(await ws.recv())
        await ws.send("hello")
        print(await ws.recv())

asyncio.run(main())
"""


def test_the_example_service_is_served_by_workers(tmp_path: Path) -> None:
    command = ["-m", "taut", "serve", "service_app:make", "--factory", "--app-dir", str(EXAMPLES)]
    with serving([*command, "--port", "0", "--workers", "2"], tmp_path, "stdout", r"on ws://127\.0\.0\.1:(\d+)/") as (
        port,
        _,
    ):
        assert re.fullmatch(r"visit 1 of kitchen, worker [01]\nhello\n", run(VISIT.replace("8765", port), tmp_path))


@pytest.mark.parametrize("name", ["market_client.py", "chat_client.py", "jsonrpc_client.py"])
def test_an_example_client_says_in_one_line_that_nobody_listens(name: str, tmp_path: Path) -> None:
    status, printed, problems = finish([str(EXAMPLES / name), "ws://127.0.0.1:1/"], tmp_path)
    assert (status, printed) == (1, "")
    assert re.fullmatch(r"cannot connect to ws://127\.0\.0\.1:1/: .+", problems.splitlines()[-1])


def test_every_example_is_tested_and_has_a_docstring() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    kinds = ("chat", "echo", "jsonrpc")
    pairs = {f"{kind}_{side}.py" for kind in kinds for side in ("client", "server")}
    assert names == pairs | {"listener_server.py", "market_client.py", "market_feed.py", "service_app.py"}
    readme = (ROOT / "README.md").read_text()
    assert set(re.findall(r"\(examples/(\w+\.py)\)", readme)) == names
    for name in names:
        assert runpy.run_path(str(EXAMPLES / name))["__doc__"], name


def test_every_extra_is_named_where_installing_is_described() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    assert set(re.findall(r"pip install '\.\[(\w+)\]'", (ROOT / "README.md").read_text())) == extras
    (line,) = re.findall(r"^Extras: ([^.]+)\.$", (ROOT / "docs" / "getting-started.md").read_text(), re.MULTILINE)
    assert set(named(line)) == extras


# -- links -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken: list[str] = []
    for target in re.findall(r"\]\(([^)\s]+)\)", "\n".join(prose(page))):
        if re.match(r"https?://", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (fragment and fragment not in [anchor(text) for _, text in headings(file)]):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_are_unique_and_levels_are_not_skipped(page: Path) -> None:
    anchors = [anchor(text) for _, text in headings(page) if page.name != "CHANGELOG.md"]
    assert len(anchors) == len(set(anchors))
    levels = [level for level, _ in headings(page)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_every_page_can_be_reached_from_the_index_and_the_readme() -> None:
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    for start in (ROOT / "README.md", ROOT / "docs" / "index.md"):
        assert pages <= {Path(target).name for target in re.findall(r"\]\(([^)#\s]+)", start.read_text())}
