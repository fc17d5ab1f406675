"""What the OpenAPI document of the reference service promises, tried by schemathesis over HTTP.

Its checks are all on, those of rejected nonsense, of accepted sense and of ignored credentials among them. What is not
in the document, paths that are not there (404) and methods that a path does not take (405), is the guard's to answer:
schemathesis tries other methods and expects 405.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from gro.service.guard import Guard
from gro.service.reference import About, create_app, fitting

Service = Any
Answer = Callable[[Sequence[Sequence[int]]], list[list[int]]]
Tried = Callable[[Answer, str], tuple[str, int, Mapping[str, float]]]
N_ITEMS, K = 300, 30
ABOUT = About(dataset="synthetic", model="none", n_items=N_ITEMS, k=K)
CONFIG = """
headers = { X-API-Key = "KEY" }
[generation]
with-security-parameters = false
"""
"""A request shows one credential, ours: two are refused before anything else of the request is read."""


def best(histories: Sequence[Sequence[int]]) -> list[list[int]]:
    return [[(sum(history) + place) % N_ITEMS + 1 for place in range(K)] for history in histories]


def repetitive(histories: Sequence[Sequence[int]]) -> list[list[int]]:
    """The document says that items are not listed twice."""
    return [[1] * K for _ in histories]


@pytest.fixture
def tried(service: Service) -> Tried:
    """Run schemathesis against a service; give what it printed, its exit status, and what the guard counted."""

    def run(answer: Answer, phases: str) -> tuple[str, int, Mapping[str, float]]:
        (service.folder / "policy.toml").write_text("[limits]\ncalls_per_day = 1_000_000\n")
        (service.folder / "tried.toml").write_text(CONFIG.replace("KEY", service.key("anna")))
        settings = service.settings()
        wire = fitting(settings.wire, ABOUT)
        guard = Guard(settings.model_copy(update={"monitor": None, "wire": wire}))  # fuzz is not to be held for fuzz
        with service.served(create_app(answer, ABOUT, guard)) as url:
            command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "tried.toml", "--no-color", "run"]
            command += [f"{url}/openapi.json", "--phases", phases, "--max-examples", "30", "--generation-deterministic"]
            done = subprocess.run(command, cwd=service.folder, capture_output=True, text=True, timeout=300, check=False)
        return done.stdout + done.stderr, done.returncode, guard.telemetry.counts()

    return run


def test_every_operation_answers_as_documented(tried: Tried) -> None:
    printed, status, counts = tried(best, "coverage,fuzzing")
    assert status == 0, printed
    assert "Tested: 4\n" in printed
    assert "No issues found" in printed
    assert counts['gro_requests_total{outcome="answered"}'] > 30
    assert counts['gro_refusals_total{code="question_malformed"}'] > 10


def test_an_answer_that_is_not_as_documented_is_found(tried: Tried) -> None:
    printed, status, _ = tried(repetitive, "coverage")
    assert status == 1
    assert "Response violates schema" in printed
