"""A ranking service that is reached over HTTP, as :command:`gro serve` answers it."""

from __future__ import annotations

import http.client
import json
import math
import ssl
import time
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import torch
from torch import Tensor

from gro.errors import ConfigError, GroError
from gro.models import padded, unpadded
from gro.service.access.network import on_this_machine

TIMEOUT: Final = 60.0
"""Seconds that an answer may take."""
AT_ONCE: Final = 10
"""Histories of a request: more at once than a minute's allowance would never be answered."""
OK: Final = 200
LIMITED: Final = 429
MOST_BYTES: Final = 1 << 24
"""Of an answer; what is longer is cut, and so no JSON."""


class _Answer(NamedTuple):
    status: int
    after: str | None
    """Retry-After."""
    content: bytes


class Endpoint:
    """Asks ``{"histories": [...], "k": ...}`` of a URL and reads ``{"lists": [...]}``; no redirect is followed.

    Attributes:
        patience: seconds that it may still wait where the service limits how often it answers.
    """

    def __init__(self, url: str, key: str | None, k: int, patience: float = 0.0) -> None:
        """Ask ``url`` for lists of ``k`` items, with an API key where it takes one.

        Raises:
            ConfigError: the URL is not HTTPS, nor HTTP on this machine.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(f"'{url}' is not an address; it must be http:// or https:// and a host")
        if parts.scheme == "http" and key is not None and not on_this_machine(parts.hostname):
            raise ConfigError(f"'{url}' would send the key in the clear; it must be https://, or on this machine")
        self._parts, self._key, self._k, self.patience = parts, key, k, patience

    def __call__(self, histories: Tensor) -> Tensor:
        """Ask about right-padded histories ``[B, T]``; lists ``[B, k]``, right-padded.

        Raises:
            GroError: it cannot be reached, refuses, or answers something else than lists.
        """
        rows = [row for part in histories.split(AT_ONCE) for row in self._answered(part)]
        return padded(rows)

    def _answered(self, histories: Tensor) -> list[Tensor]:
        asked = unpadded(histories)
        body = json.dumps({"histories": asked, "k": self._k})
        answer = self._sent(body)
        while answer.status == LIMITED and (pause := _pause(answer.after)) <= self.patience:
            self.patience -= pause
            time.sleep(pause)
            answer = self._sent(body)
        if answer.status == LIMITED:
            told = "" if answer.after is None else f"; Retry-After is {answer.after}"
            raise GroError(f"{self._parts.netloc} limits how often it answers (429){told}")
        if answer.status != OK:
            raise GroError(f"{self._parts.netloc} refuses ({answer.status})")
        rows = _rows(answer.content)
        if len(rows) != len(asked):
            raise GroError(f"{self._parts.netloc} answers {len(asked)} histories by {len(rows)} lists")
        return rows

    def _sent(self, body: str) -> _Answer:
        connection, parts = self._connection(), self._parts
        headers = {"Content-Type": "application/json", **({} if self._key is None else {"X-API-Key": self._key})}
        path = f"{parts.path or '/'}{parts.query and '?' + parts.query}"
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            return _Answer(answer.status, answer.headers["Retry-After"], answer.read(MOST_BYTES))
        except (OSError, http.client.HTTPException) as error:
            raise GroError(f"{parts.netloc} cannot be reached: {error}") from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT)


def _pause(after: str | None) -> float:
    """Seconds to wait; forever where the service does not say how long, or says it as a date."""
    return max(1.0, float(after)) if after is not None and after.isdecimal() else math.inf


def _rows(content: bytes) -> list[Tensor]:
    try:
        lists = json.loads(content)["lists"]
        if any(isinstance(item, float) for row in lists for item in row):
            raise ValueError
        return [torch.tensor(row, dtype=torch.int64) for row in lists]
    except (ValueError, KeyError, TypeError, RuntimeError, RecursionError, OverflowError):
        raise GroError('it answers no JSON with lists of item ids in the field "lists"') from None
