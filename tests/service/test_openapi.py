"""What the OpenAPI document of the reference service promises, tried with what breaks services."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import schemathesis
from hypothesis import settings
from schemathesis.config import SchemathesisConfig

from gro.service.guard import Guard
from gro.service.reference import About, create_app

Service = Any
ABOUT = About(dataset="synthetic", model="none", n_items=300, k=30)
CONFIG = SchemathesisConfig.from_dict({"generation": {"mode": "all", "with-security-parameters": False}})
"""A request shows one credential, ours: a second one is refused with 400 before anything else is read."""
document = schemathesis.pytest.from_fixture("described")


@pytest.fixture
def described(service: Service) -> Iterator[Any]:
    """The document of a service that runs, which a call budget and a monitor do not end early."""
    (service.folder / "policy.toml").write_text("[limits]\ncalls_per_day = 1_000_000\n")

    def answer(histories: Sequence[Sequence[int]]) -> list[list[int]]:
        return [[sum(history) % 270 + place + 1 for place in range(30)] for history in histories]

    guard = Guard(service.settings().model_copy(update={"monitor": None}))
    with service.served(create_app(answer, ABOUT, guard)) as url:
        credential = {"X-API-Key": service.key("anna")}
        yield schemathesis.openapi.from_url(f"{url}/openapi.json", headers=credential, config=CONFIG)


@document.parametrize()
@settings(max_examples=30, derandomize=True, deadline=None)
def test_every_operation_answers_as_documented(case: Any, service: Service) -> None:
    case.call_and_validate(headers={"X-API-Key": service.key("anna")})
