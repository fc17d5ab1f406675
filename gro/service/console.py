"""What the guard itself answers: sessions, and for operators and auditors accounts, events, metrics and a page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import Annotated, Any, Final, TypeAlias, TypeVar

from pydantic import Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gro.config import Settings
from gro.errors import ConfigError
from gro.service.access.authenticate import bearer
from gro.service.access.names import Account
from gro.service.access.sessions import CREDENTIAL
from gro.service.core import Refused, Role
from gro.service.guard import CALLER, Caller, Guard
from gro.service.monitor.detector import Judgement
from gro.service.playbook import State

MOST: Final = 1_000
"""Accounts that are listed at a time."""
PAGE: Final = ("dashboard", "dashboard.js", "dashboard.css")
TYPES: Final = {"dashboard": "text/html", "dashboard.js": "text/javascript", "dashboard.css": "text/css"}
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Why = Annotated[str, Field(min_length=1, max_length=1_000)]
Answer: TypeAlias = Callable[[Request], Awaitable[Response]]
OrderT = TypeVar("OrderT", bound=Settings)


class Release(Settings):
    """An account is to return to the normal state."""

    account: Account
    why: Why


class Hold(Settings):
    """An account is to be put into a state."""

    account: Account
    state: State
    why: Why
    seconds: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    factor: float | None = None


class Console:
    """An ASGI application for requests whose caller is known.

    Attributes:
        roles: that its paths take; ``None`` is any.
        public: paths that anybody may see; they tell nothing.
    """

    def __init__(self, guard: Guard) -> None:
        """Answer for ``guard``."""
        self._guard, begin = guard, guard.settings.console
        answers: dict[str, tuple[Answer, tuple[str, ...], Role | None]] = {
            "session": (self._session, ("POST", "DELETE"), None),
            "overview": (self._overview, ("GET",), Role.OPERATE),
            "accounts": (self._accounts, ("GET",), Role.OPERATE),
            "account": (self._account, ("GET",), Role.OPERATE),
            "release": (self._release, ("POST",), Role.OPERATE),
            "hold": (self._hold, ("POST",), Role.OPERATE),
            "events": (self._events, ("GET",), Role.AUDIT),
            "metrics": (self._metrics, ("GET",), Role.AUDIT),
        }
        self.roles = {f"{begin}/{name}": role for name, (_, _, role) in answers.items()}
        self.public = frozenset(f"{begin}/{name}" for name in PAGE)
        self._answers = {f"{begin}/{name}": (call, methods) for name, (call, methods, _) in answers.items()}
        self._answers |= dict.fromkeys(self.public, (self._page, ("GET",)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        answer, methods = self._answers[scope["path"]]
        if scope["method"] not in methods:
            allowed = ", ".join(methods)
            raise Refused(405, "method_unknown", f"requests to this path are {allowed}", {"Allow": allowed})
        response = await answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _session(self, request: Request) -> Response:
        """Open a session for who calls, or end the one that is shown."""
        sessions, caller = self._guard.sessions, _caller(request)
        if sessions is None:
            raise Refused(404, "path_unknown", "the service opens no sessions")
        if request.method == "POST":
            token = sessions.open(caller.principal, self._guard.now())
            return JSONResponse({"session": token}, 201, {"Cache-Control": "no-store"})
        if not caller.principal.credential.startswith(CREDENTIAL):
            raise Refused(400, "session_missing", "show the session that is to end, as a bearer token")
        sessions.close(bearer(request.scope["headers"]))
        return Response(status_code=204)

    async def _overview(self, request: Request) -> Response:
        guard = self._guard
        watched = 0 if guard.watchman is None else len(guard.watchman)
        return _private(
            {
                "time": guard.now(),
                "trouble": guard.trouble,
                "accounts_watched": watched,
                "accounts_listed": len(self._listed()),
                "dry_run": guard.responses.dry_run,
                "counts": guard.telemetry.counts(),
            }
        )

    async def _accounts(self, request: Request) -> Response:
        """Accounts that an alarm or a rule holds, the harshest first."""
        known = [self._about(account) for account in self._listed()]
        known.sort(key=lambda about: (State(about["state"]), about["score"] or 0), reverse=True)
        return _private({"accounts": known[:MOST], "all": len(known)})

    async def _account(self, request: Request) -> Response:
        return _private(self._about(request.query_params.get("name", "")))

    async def _release(self, request: Request) -> Response:
        order = await _read(Release, request)
        await self._guard.release(_caller(request), order.account, order.why)
        return _private(self._about(order.account))

    async def _hold(self, request: Request) -> Response:
        order = await _read(Hold, request)
        try:
            await self._guard.hold(_caller(request), order.account, order.state, order.why, order.seconds, order.factor)
        except ConfigError as error:
            raise Refused(400, "order_malformed", str(error)) from None
        return _private(self._about(order.account))

    async def _events(self, request: Request) -> Response:
        return _private({"events": list(self._guard.logs.recent)})

    async def _metrics(self, request: Request) -> Response:
        content, kind = self._guard.telemetry.exposition(request.headers.get("accept", ""))
        return Response(content, headers={"Content-Type": kind, "Cache-Control": "no-store"})

    async def _page(self, request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        shipped = "dashboard.html" if name == "dashboard" else name
        content = (files("gro.service") / "page" / shipped).read_bytes()
        return Response(content, headers=HEADERS, media_type=TYPES[name])

    def _listed(self) -> set[str]:
        watchman = self._guard.watchman
        return {*self._guard.responses, *(() if watchman is None else watchman.alarms)}

    def _about(self, account: str) -> dict[str, Any]:
        """What is known of an account, and what is done to it."""
        guard = self._guard
        judged = None if guard.watchman is None else guard.watchman.judgement(account)
        response = guard.responses.response(account)
        return {
            "account": account,
            "state": str(response.state),
            "factor": response.factor,
            "dry_run": guard.responses.dry_run,
            "holds": [{**asdict(hold), "state": str(hold.state)} for hold in guard.responses.holds(account)],
            **_judged(judged),
        }


def _judged(judged: Judgement | None) -> Mapping[str, Any]:
    if judged is None:
        return {"score": None, "alarm": False, "reasons": []}
    reasons = [{**asdict(reason), "text": str(reason)} for reason in judged.reasons]
    return {"score": judged.score / judged.threshold, "alarm": judged.alarm, "reasons": reasons}


def _private(content: Mapping[str, Any]) -> JSONResponse:
    return JSONResponse(content, headers={"Cache-Control": "no-store"})


def _caller(request: Request) -> Caller:
    caller: Caller = request.scope["state"][CALLER]
    return caller


async def _read(kind: type[OrderT], request: Request) -> OrderT:
    """Read an order.

    Raises:
        Refused: 400; it is none.
    """
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise Refused(400, "order_malformed", f"{where and where + ': '}{problem['msg'].lower()}") from None
