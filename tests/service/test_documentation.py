"""What gro/service/README.md says is so: its example runs, its commands are there, the tests that it names as well."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from gro.cli import main
from gro.cli.app import COMMANDS

Service = Any
ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "gro" / "service" / "README.md").read_text(encoding="utf-8")


def test_the_example_is_a_guarded_service(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["guard", "init", "guard"])
    capsys.readouterr()
    main(["guard", "keys", "create", "guard/keys.json", "--account", "anna"])
    key = capsys.readouterr().out.split()[0]
    [example] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 15
    names: dict[str, Any] = {}
    exec(compile(example, "example", "exec", dont_inherit=True), names)
    with service.served(names["app"]) as url:
        asked = [
            httpx.post(f"{url}/rank", json={"histories": [[1, 2]]}, headers=shown) for shown in ({}, {"X-API-Key": key})
        ]
    assert [answer.status_code for answer in asked] == [401, 200]
    assert asked[1].json() == {"lists": [[2, 3]]}
    assert asked[1].headers["ratelimit"].startswith('"account_calls_per_minute";r=9')


def test_the_guard_loads_nothing_that_trains() -> None:
    """Nor what draws; so a service that is guarded starts as fast as before."""
    code = "import sys, gro.service.asgi, gro.service.reference; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ("torch", "recbole", "pandas", "matplotlib")
    found = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_the_commands_are_there() -> None:
    told = set(re.findall(r"gro ((?:guard(?: keys)?|logs|serve)\b(?: [a-z]+)?)", TEXT))
    assert told
    assert all(any(command.startswith(words.rstrip()) for command in COMMANDS) for words in told), told


def test_the_tests_are_there() -> None:
    named = set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", TEXT))
    assert len(named) > 30
    sources = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "service").rglob("test_*.py")}
    assert {(file, test) for file, test in named if f"def {test}(" not in sources.get(file, "")} == set()
