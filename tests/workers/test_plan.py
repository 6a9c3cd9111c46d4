"""What is checked before anything is started, and what becomes of the options of the command."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import Any

import pytest

import taut.workers
from taut.cli.serve_arguments import add_serve_arguments, serve_options
from taut.workers.plan import Plan
from taut.workers.run import Place


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"app": 5}, "app must be a str, not 5"),
        ({"app": "app"}, "app must be MODULE:ATTRIBUTE"),
        ({"key": "key.pem"}, "key is the private key of a certificate, and there is no certificate"),
        ({"drain": -1}, "drain must be"),
        ({"drain": float("inf")}, "drain must be"),
        ({"start_timeout": 0}, "start_timeout must be"),
        ({"worker_timeout": -1}, "worker_timeout must be"),
        ({"log_format": "xml"}, "log_format must be one of text, json, not 'xml'"),
        ({"log_level": "loud"}, "log_level must be one of debug, info, "),
        ({"metrics_port": 70000}, "port must be"),
        ({"options": {"max_size": -1}}, "max_size must be"),
        ({"options": {"nonsense": 1}}, "nonsense"),
        ({"options": {"ssl": None, "sock": None}}, "these options of serve are no options of workers: sock, ssl"),
        ({"options": {"process_request": print}}, "the options of workers must be numbers, strings, or lists of those"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], problem: str) -> None:
    with pytest.raises((TypeError, ValueError), match=problem):
        Plan(**{"app": "app:x", **options})


def test_what_is_planned_reaches_a_worker_as_it_is() -> None:
    plan = Plan(app="app:x", factory=True, drain=5, options={"trusted_proxies": ["127.0.0.1"], "max_size": None})
    assert Plan.from_json(plan.to_json()) == plan
    assert "\n" not in plan.to_json()


def test_more_than_one_place(tmp_path: Path) -> None:
    for place in (
        Place("127.0.0.1", 0, tmp_path / "x"),
        Place(path="x", descriptors=[3]),
        Place(port=0, descriptors=[3]),
    ):
        with pytest.raises(ValueError, match="only one of host and port, path, descriptors says where to listen"):
            place.bind(1, [])
    with pytest.raises(ValueError, match="and systemd's sockets"):
        Place(port=0).bind(1, [3])
    with pytest.raises(ValueError, match="port must be"):
        Place(port=70000)
    with pytest.raises(ValueError, match="descriptors must be"):
        Place(descriptors=[-1])


def test_several_hosts() -> None:
    binding = Place(["127.0.0.1", "127.0.0.2"], 0).bind(2, [])
    assert [len(sockets) for sockets in binding.slots] == [2, 2]
    assert [sock.getsockname() for sock in binding.slots[0]] == [sock.getsockname() for sock in binding.slots[1]]
    binding.close()


def test_it_is_for_the_main_thread() -> None:
    problems: list[Exception] = []

    def run() -> None:
        try:
            taut.workers.run("app:x")
        except RuntimeError as exc:
            problems.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert str(problems[0]) == "signals reach the main thread only: that is where workers are run from"


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("", {}),
        ("--no-compression --max-size 5 --backlog 7", {"compression": None, "max_size": 5, "backlog": 7}),
        ("--ping-interval 0 --ping-timeout 1.5 --open-timeout 0",
         {"ping_interval": None, "ping_timeout": 1.5, "open_timeout": None}),
        ("--origin *", {"origins": ["*"]}),
        ("--origin https://a --origin https://b", {"origins": ["https://a", "https://b"]}),
        ("--proxy-protocol --trusted-proxy unix --trusted-proxy 10.0.0.0/8",
         {"proxy_protocol": True, "trusted_proxies": ["unix", "10.0.0.0/8"]}),
        ("--max-connections 9 --max-connections-per-address 2",
         {"max_connections": 9, "max_connections_per_address": 2}),
    ],
)  # fmt: skip
def test_the_options_of_the_command(line: str, options: dict[str, Any]) -> None:
    parser = argparse.ArgumentParser()
    add_serve_arguments(parser)
    given = serve_options(parser.parse_args(["app:x", *line.split()]))
    assert given == options
    Plan(app="app:x", options=given)
