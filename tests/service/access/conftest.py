from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from gro.service.core import Refused

Refusing = Callable[..., AbstractContextManager[None]]


@pytest.fixture(scope="session")
def refusing() -> Refusing:
    """Expect one refusal, by its code and status."""

    @contextmanager
    def refusing(code: str, status: int = 401) -> Iterator[None]:
        with pytest.raises(Refused) as refusal:
            yield
        assert (refusal.value.code, refusal.value.status) == (code, status)
        assert "\n" not in refusal.value.detail

    return refusing
