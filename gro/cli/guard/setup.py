"""``gro guard init`` and ``gro guard check``: a guard's settings, begun and looked over."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeAlias

from gro.cli.guard.settings import CheckCommand, InitCommand
from gro.cli.output import show
from gro.cli.settings import Output
from gro.errors import ConfigError
from gro.service.access.keys import Key, KeyStore, start_key_file
from gro.service.access.tokens import Tokens
from gro.service.decoys import Decoys
from gro.service.keyfile import read_key
from gro.service.monitor.files import read as read_calibration
from gro.service.playbook import Playbook, read_playbook
from gro.service.settings import GuardSettings, read_guard

NAMES: Final = {
    "KEYS": "keys.json",
    "SECRET": "secret",
    "STATES": "states.jsonl",
    "EVENTS": "events.jsonl",
    "AUDIT": "audit.jsonl",
    "QUERIES": "queries.jsonl",
    "CALIBRATION": "calibration.safetensors",
}
"""Files beside guard.toml, by what stands for their paths in the template."""
Part: TypeAlias = tuple[str, str]


def init(settings: Mapping[str, Any], output: Output) -> int:
    """Begin a guard."""
    folder = InitCommand.make(settings).folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    guard, secret, keys = folder / "guard.toml", folder / NAMES["SECRET"], folder / NAMES["KEYS"]
    template = (files("gro.cli.guard") / "guard.toml").read_text(encoding="utf-8")
    paths = {name: json.dumps(str(folder / file)) for name, file in NAMES.items()}
    made = [
        _made(guard, re.sub(rf"\b({'|'.join(NAMES)})\b", lambda found: paths[found[0]], template)),
        _made(secret, f"{secrets.token_hex(32)}\n"),
    ]
    start_key_file(keys)
    report = {"guard": str(guard), "secret": str(secret), "keys": str(keys), "made": [path for path in made if path]}
    title = f"next: gro guard keys create {keys} --account NAME, then gro serve RUN --guard {guard}"
    return show(output, report, title, ("", ""), [(name, str(value)) for name, value in list(report.items())[:3]])


def check(settings: Mapping[str, Any], output: Output) -> int:
    """Say what a guard's settings do, without writing anything."""
    path = CheckCommand.make(settings).guard
    guarding = read_guard(path)
    entrances, parts = list(_entrances(guarding)), list(_parts(guarding))
    ok = any(good for _, _, good in entrances)
    rows = [*((name, what) for name, what, _ in entrances), *parts]
    report = {"guard": str(path), "ok": ok, "parts": dict(rows)}
    title = f"{path}: in order" if ok else f"{path}: nobody can get in; make a key or name an issuer of tokens"
    show(output, report, title, ("part", "what it does"), rows)
    return int(not ok)


def _made(path: Path, content: str) -> str | None:
    """Write a file that only its owner reads, unless it is there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    return str(path)


def _entrances(guarding: GuardSettings) -> Iterator[tuple[str, str, bool]]:
    """Ways in, and whether somebody can take them."""
    if guarding.keys is not None:
        now = time.time()
        good = [key for key in KeyStore(guarding.keys).list() if not key.ended(now)]
        yield "keys", f"{len(good)} good{_by_role(good)}", bool(good)
    if guarding.tokens is not None:
        Tokens(guarding.tokens, time.time())
        yield "tokens", f"of {guarding.tokens.issuer}, signed with {', '.join(guarding.tokens.algorithms)}", True
    yield "open to anybody", ", ".join(guarding.open) or "nothing", False


def _by_role(keys: list[Key]) -> str:
    roles = sorted({str(role) for key in keys for role in key.roles})
    return "".join(f", {sum(role in key.roles for key in keys)} to {role}" for role in roles)


def _parts(guarding: GuardSettings) -> Iterator[Part]:
    """What every other part does; reading them finds what is wrong."""
    sessions, network, limits = guarding.sessions, guarding.network, guarding.limits
    yield "sessions", "none" if sessions is None else f"{sessions.idle:g} s idle, {sessions.lifetime:g} s in all"
    yield "proxies", ", ".join(map(str, network.proxies)) or "none: addresses are those of the connections"
    budgets = "; ".join(f"{budget.name} {budget.amount:,}" for budget in limits.budgets())
    where = limits.store.get_secret_value().partition("://")[0]
    yield "limits", f"{budgets}; counted in {where}, without which it would {limits.when_store_is_gone}"
    if guarding.monitor is None:
        yield "monitor", "off: no account is judged; calibrate it on a clean query log"
    else:
        made = read_calibration(guarding.monitor.calibration)
        yield "monitor", f"calibrated on {made.accounts:,} accounts, at most {made.false_alarms:.2%} false alarms"
    secret = None if guarding.privacy.key_file is None else read_key(guarding.privacy.key_file)
    playbook = read_playbook(guarding.responses.playbook)
    Decoys.of(playbook, guarding.wire.n_items, secret)
    yield "playbook", _said(playbook)
    yield "privacy", f"accounts {guarding.privacy.accounts}, addresses {guarding.privacy.addresses}"
    yield "events", str(guarding.events.to)
    audit, queries = guarding.audit, guarding.queries
    if audit is not None:
        read_key(audit.key_file)
    yield "audit log", "none" if audit is None else f"{audit.path}; where it fails: {audit.when_audit_fails}"
    yield "query log", "none" if queries is None else f"{queries.path}, items {guarding.privacy.items}"
    if queries is not None and guarding.privacy.items == "hashed" and secret is None:
        raise ConfigError("privacy: items of the query log are hashed, which takes a secret; set key_file")


def _said(playbook: Playbook) -> str:
    rules = "; ".join(f"{rule.when}: {rule.then}" for rule in playbook.rule)
    return f"dry run, nothing is done: {rules}" if playbook.dry_run else rules
