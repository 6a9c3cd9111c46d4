"""Where ``MODULE:ATTRIBUTE`` leads."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from taut.workers.loading import LoadError, check_name, load


@pytest.fixture(autouse=True)
def unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_it_is_found_in_the_folder_first(tmp_path: Path) -> None:
    write(tmp_path, "json_of_mine/inner.py", "class Outer:\n    inner = 5\n")
    write(tmp_path, "json_of_mine/__init__.py", "")
    assert load("json_of_mine.inner:Outer.inner", str(tmp_path)) == 5
    assert sys.path[0] == str(tmp_path)
    assert isinstance(sys.modules["json_of_mine.inner"], ModuleType)


@pytest.mark.parametrize("name", ["", "app", "app:", ":x", "a b:x", "app:x()", "app:x:y", "a..b:x", "app: x"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"app must be MODULE:ATTRIBUTE, such as chat\.main:router, not "):
        check_name(name)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nothing_here:x", "there is no module 'nothing_here' in "),
        ("nothing_here.at.all:x", "there is no module 'nothing_here' in "),
        ("found.deeper:x", "there is no module 'found.deeper' in "),
        ("found:x", "found has no attribute 'x'"),
        ("found:y.z", "found.y has no attribute 'z'"),
    ],
)
def test_what_is_not_there(tmp_path: Path, name: str, problem: str) -> None:
    write(tmp_path, "found.py", "y = 1")
    with pytest.raises(LoadError) as caught:
        load(name, str(tmp_path))
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("import nothing_there", ModuleNotFoundError), ("1 / 0", ZeroDivisionError), ("this is no Python", SyntaxError)],
)
def test_what_a_module_raises_passes(tmp_path: Path, text: str, kind: type[Exception]) -> None:
    write(tmp_path, "broken.py", text)
    with pytest.raises(kind):
        load("broken:x", str(tmp_path))
