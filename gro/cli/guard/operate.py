"""``gro guard accounts``, ``hold`` and ``release``: an operator's orders to a running guard."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlsplit

from gro.cli.guard.settings import AccountsCommand, HoldCommand, ReleaseCommand, RunningGuard
from gro.cli.output import show
from gro.cli.settings import Output
from gro.errors import ConfigError, GroError
from gro.service.access.files import PRIVATE, read_trusted
from gro.service.access.network import on_this_machine

KEY: Final = "GRO_GUARD_KEY"
TIMEOUT: Final = 10.0
MOST_BYTES: Final = 1 << 24
COLUMNS: Final = ("account", "state", "score", "held by", "until", "why")
Body = Mapping[str, Any]


def accounts(settings: Body, output: Output) -> int:
    """List the accounts that stand out, or show one."""
    command = AccountsCommand.make(settings)
    if command.account is not None:
        return _shown(_sent(command, "GET", f"account?name={quote(command.account, safe='')}"), output)
    found = _sent(command, "GET", "accounts")
    title = f"{found['all']} account(s) with an alarm or a hold; scores are shares of the threshold of an alarm"
    return show(output, found, title, COLUMNS, [row for each in found["accounts"] for row in _rows(each)])


def hold(settings: Body, output: Output) -> int:
    """Put an account into a state."""
    command = HoldCommand.make(settings)
    seconds = None if command.hours is None else 3_600 * command.hours
    order = {"account": command.account, "state": command.state, "why": command.why}
    return _shown(_sent(command, "POST", "hold", {**order, "seconds": seconds, "factor": command.factor}), output)


def release(settings: Body, output: Output) -> int:
    """Return an account to the normal state."""
    command = ReleaseCommand.make(settings)
    return _shown(_sent(command, "POST", "release", {"account": command.account, "why": command.why}), output)


def _shown(about: Body, output: Output) -> int:
    reasons = [reason["text"] for reason in about["reasons"]]
    dry = ": a dry run, in which nothing is done to anybody" if about["dry_run"] else ""
    title = "\n".join([f"{about['account']} is {about['state']}{dry}", *reasons])
    return show(output, about, title, COLUMNS, _rows(about))


def _rows(about: Body) -> Sequence[tuple[str, ...]]:
    score = "-" if about["score"] is None else f"{about['score']:.2f}"
    who = (about["account"], about["state"], score)
    held = [(hold["by"], _date(hold["until"]), hold["why"]) for hold in about["holds"]]
    return [(*who, *each) for each in held or [("-", "-", "-")]]


def _date(at: float | None) -> str:
    return "released" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _sent(command: RunningGuard, method: str, what: str, order: Body | None = None) -> dict[str, Any]:
    """Send a request and return what is answered; no redirect is followed, since it would take the key along.

    Raises:
        GroError: the guard cannot be reached, or refuses.
    """
    connection, path = _connection(command)
    headers = {"X-API-Key": _key(command), "Content-Type": "application/json"}
    body = None if order is None else json.dumps(order)
    try:
        connection.request(method, f"{path}/{what}", body, headers)
        answer = connection.getresponse()
        status, content = answer.status, answer.read(MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise GroError(f"{command.url}: {error}; is the service there?") from None
    finally:
        connection.close()
    try:
        found = dict(json.loads(content))
    except (ValueError, TypeError):
        raise GroError(f"{command.url}: answers {status} and no JSON object; is this a guard's path?") from None
    if status != 200:
        raise GroError(f"{command.url}: {status} {found.get('error')}: {found.get('detail')}")
    return found


def _connection(command: RunningGuard) -> tuple[http.client.HTTPConnection, str]:
    url = urlsplit(command.url)
    host, path = url.hostname or "", url.path.rstrip("/")
    if url.scheme == "https":
        context = ssl.create_default_context(cafile=command.tls_authority)
        return http.client.HTTPSConnection(host, url.port, timeout=TIMEOUT, context=context), path
    if url.scheme != "http" or not on_this_machine(host):
        raise ConfigError(f"--url is '{command.url}'; it must be https://, or http:// on this machine: it takes a key")
    return http.client.HTTPConnection(host, url.port, timeout=TIMEOUT), path


def _key(command: RunningGuard) -> str:
    if command.key_file is not None:
        key = read_trusted(command.key_file, PRIVATE)[0].decode("ascii", "replace").strip()
    else:
        key = os.environ.get(KEY, "")
    if not (key and key.isascii() and key.isprintable()):
        raise ConfigError(f"a key is needed: give --key-file, or set {KEY}; 'gro guard keys create' makes one")
    return key
