"""What happens at the guard: an :class:`Event` each, made by the functions below and written by :mod:`gro.service.ecs`.

Categories and types are those that the Elastic Common Schema expects of each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, Literal

from gro.service.core import Principal, Refused
from gro.service.link import StoreChange
from gro.service.monitor.detector import Judgement
from gro.service.playbook import State
from gro.service.responses import PLAYBOOK, Transition


class Severity(IntEnum):
    """How bad it is, on the scale of Elastic Security."""

    INFO = 1
    LOW = 21
    MEDIUM = 47
    HIGH = 73
    CRITICAL = 99


STORE: Final = {
    "gone": ("store-degraded", "error", "The store of limits does not answer.", Severity.HIGH),
    "back": ("store-recovered", "info", "The store of limits answers again.", Severity.INFO),
    "emptied": ("store-emptied", "error", "The store of limits lost what it had counted.", Severity.MEDIUM),
}
"""Action, type, message and severity of what becomes of the store."""


@dataclass(frozen=True, slots=True)
class Request:
    """Where an event came from.

    Attributes:
        method: of HTTP.
        path: of the URL, or of its route where the path itself would name an account; never the query.
        address: IP address of the client.
        trace: W3C trace id, 32 hexadecimal digits.
    """

    method: str
    path: str
    address: str | None = None
    trace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened.

    Attributes:
        action: what happened, in a word or two.
        category: as ECS has it.
        type: as ECS has it.
        message: one line for people, which names no account.
        outcome: where there is one.
        kind: as ECS has it.
        account: who did it, or to whom it was done where nobody did.
        principal: who did it, and was authenticated.
        target: account to which somebody did it.
        request: during which it happened.
        refused: how the request was refused, where it was.
        rule: what decided it.
        reason: why it happened.
        fields: others, by the dotted names of ECS or beginning with ``gro.``.
    """

    action: str
    category: tuple[str, ...]
    type: tuple[str, ...]
    message: str
    severity: Severity = Severity.INFO
    outcome: Literal["success", "failure"] | None = None
    kind: Literal["event", "alert", "pipeline_error"] = "event"
    account: str | None = None
    principal: Principal | None = None
    target: str | None = None
    request: Request | None = None
    refused: Refused | None = None
    rule: str | None = None
    reason: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


def authentication_failed(refused: Refused, request: Request) -> Event:
    """Nobody is known by what was shown, or nothing was shown."""
    return Event(
        action="authentication-failed",
        category=("authentication",),
        type=("start",),
        message="A request was not authenticated.",
        severity=Severity.LOW,
        outcome="failure",
        request=request,
        refused=refused,
    )


def access_denied(principal: Principal, refused: Refused, request: Request) -> Event:
    """A principal asked for what its roles, or what is done to its account, do not allow."""
    return Event(
        action="access-denied",
        category=("api",),
        type=("access", "denied"),
        message="A principal asked for what it may not have.",
        severity=Severity.MEDIUM,
        outcome="failure",
        principal=principal,
        request=request,
        refused=refused,
    )


def request_limited(principal: Principal | None, refused: Refused, request: Request) -> Event:
    """A request was beyond the limit that the refusal's code names; nobody is known where that comes first."""
    return Event(
        action="request-limited",
        category=("api",),
        type=("access", "denied"),
        message="A request was beyond a limit.",
        severity=Severity.LOW,
        outcome="failure",
        principal=principal,
        request=request,
        refused=refused,
        rule=refused.code,
    )


def store_changed(change: StoreChange) -> Event:
    """The store that limits are kept in does not answer, answers again, or lost what it had counted."""
    action, type_, message, severity = STORE[change.state]
    return Event(
        action=action,
        category=("database",),
        type=(type_,),
        message=message,
        severity=severity,
        outcome="success" if change.state == "back" else "failure",
        reason=change.why,
    )


def alarm(account: str, judgement: Judgement, request: Request | None = None) -> Event:
    """The monitor found an account unlike people."""
    score, threshold = judgement.score, judgement.threshold
    reasons = [asdict(reason) for reason in judgement.reasons]
    return Event(
        action="account-alarm",
        category=("intrusion_detection",),
        type=("info",),
        message=f"An account's calls are unlike those of people: score {score:.2f}, threshold {threshold:.2f}.",
        severity=Severity.HIGH,
        kind="alert",
        account=account,
        request=request,
        rule="monitor",
        reason="; ".join(map(str, judgement.reasons)) or None,
        fields={"event.risk_score": score, "gro.threshold": threshold, "gro.reasons": reasons},
    )


def transition(made: Transition) -> Event:
    """A playbook, a challenge or an operator changed what is done to an account, or would have."""
    nobody = made.by == PLAYBOOK
    return Event(
        action="playbook-transition",
        category=("iam",),
        type=("user", "info" if made.dry_run else "change"),
        message=f"An account {'would go' if made.dry_run else 'went'} from {made.before} to {made.after}.",
        severity=Severity.INFO if made.after is State.NORMAL else Severity.MEDIUM,
        outcome="success",
        account=made.account if nobody else made.by,
        target=None if nobody else made.account,
        rule=made.rule or None,
        reason=made.why,
        fields={
            "gro.state.before": str(made.before),
            "gro.state.after": str(made.after),
            "gro.state.until": made.until,
            "gro.factor": made.factor,
            "gro.dry_run": made.dry_run,
        },
    )


def operator_action(
    operator: Principal, action: str, request: Request, *, account: str | None = None, reason: str | None = None
) -> Event:
    """An operator did ``action``, such as ``release``, to an account or to the guard."""
    return Event(
        action=f"operator-{action}",
        category=("iam",),
        type=("admin", "change"),
        message="An operator intervened.",
        severity=Severity.MEDIUM,
        outcome="success",
        principal=operator,
        target=account,
        request=request,
        reason=reason,
    )


def service_started() -> Event:
    """The guard answers from now on."""
    return Event(
        action="service-started",
        category=("process",),
        type=("start",),
        message="The guard started.",
        outcome="success",
    )


def service_stopped() -> Event:
    """The guard answers no more, as it was told."""
    return Event(
        action="service-stopped",
        category=("process",),
        type=("end",),
        message="The guard stopped.",
        outcome="success",
    )


def configuration_loaded(path: Path, sha256: str) -> Event:
    """Settings hold from now on that were read from a file with this digest."""
    return Event(
        action="configuration-loaded",
        category=("configuration",),
        type=("change",),
        message="A configuration was loaded.",
        outcome="success",
        fields={"file.path": str(path), "file.hash.sha256": sha256},
    )


def audit_failed(reason: str) -> Event:
    """An entry of the audit log could not be written."""
    return Event(
        action="audit-failed",
        category=("file",),
        type=("info",),
        message="The audit log cannot be written.",
        severity=Severity.CRITICAL,
        outcome="failure",
        reason=reason,
    )


def lines_lost(log: str, lines: int) -> Event:
    """Lines of a log were lost: they came faster than they could be written, or could not be written."""
    return Event(
        action="lines-lost",
        category=("file",),
        type=("info",),
        message="Lines of a log were lost.",
        severity=Severity.HIGH,
        outcome="failure",
        kind="pipeline_error",
        fields={"gro.log": log, "gro.lines": lines},
    )
