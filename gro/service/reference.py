"""The reference service: a model behind the guard, as a FastAPI application.

The pattern of a gated API. One door: every path asks for a credential unless the guard's settings open it, and what
asks for lists is read, bounded, charged and watched before the model sees it. One reading: the guard and the service
read a request with the same :class:`gro.service.wire.Wire`, so that it is not one thing to the one and another to the
other. Lists and nothing else go out: no scores, and one shape of refusal, ``{"error": code, "detail": text}``. There is
no other way to the model; a gateway in front may end TLS, and adds to the guard rather than replacing it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final, Literal, TypeAlias

from fastapi import FastAPI, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from gro.config import PositiveInt, Settings
from gro.errors import ConfigError
from gro.service.asgi import GuardMiddleware
from gro.service.batching import Answer, Batcher
from gro.service.core import Refused, Role
from gro.service.guard import Guard
from gro.service.wire import Wire, WireSettings

logger = logging.getLogger(__name__)
RANK: Final = "/rank"
OTHERS: Final = ("/about", "/health", "/ready", "/openapi.json")
Schema: TypeAlias = dict[str, Any]
CREDENTIALS: Final = (
    Security(APIKeyHeader(name="X-API-Key", scheme_name="key", auto_error=False)),
    Security(HTTPBearer(scheme_name="bearer", auto_error=False)),
)
"""For the OpenAPI document; the guard is who checks them."""


class About(Settings):
    """What a service says of itself to those it lets in."""

    dataset: str
    model: str
    """The architecture; not what protects it."""
    n_items: PositiveInt
    """Items are 1..n_items."""
    k: PositiveInt
    """Longest list."""


class Health(Settings):
    """The process runs."""

    status: Literal["alive"] = "alive"


class Readiness(Settings):
    """Questions are answered."""

    status: Literal["ready"] = "ready"


class Problem(Settings):
    """Why a request is not answered."""

    error: str
    """What a program tells refusals apart by."""
    detail: str
    """One line for people."""


def create_app(answer: Answer, about: About, guard: Guard) -> FastAPI:
    """Put a model behind a guard, which opens and closes with the application.

    Args:
        answer: best items for histories, ``about.k`` at most; reads the end of a history that is too long for it.
        about: what is served.
        guard: who is let in; see :func:`fitting` for the settings of its wire.

    Raises:
        ConfigError: the guard's settings are of another catalogue.
    """
    service = _Service(answer, about, guard)
    app = FastAPI(
        title="Ranking service",
        summary="Lists of items for histories of items, behind a guard.",
        version=version("gro"),
        docs_url=None,  # these two load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        lifespan=service.lifespan,
        exception_handlers={Refused: _refused, HTTPException: _no_such_thing, Exception: _failed},
    )
    wire = service.wire.settings
    given: dict[int | str, Schema] = {
        200: {"description": "The lists, in the order of the histories.", "content": _json(_lists(wire, about))}
    }
    asked = {"requestBody": {"required": True, "content": _json(_question(wire))}}
    app.add_api_route(
        RANK,
        service.rank,
        methods=["POST"],
        summary="Lists for one history or several",
        responses={**given, **_refusals(400, 401, 403, 413, 429, 502, 503)},
        dependencies=_credentials(RANK, guard),
        openapi_extra=asked,
    )
    for path, endpoint, model, statuses in (
        ("/about", service.about, About, ()),
        ("/health", service.health, Health, ()),
        ("/ready", service.ready, Readiness, (503,)),
    ):
        credentials = _credentials(path, guard)
        refusals = _refusals(*(400, 401, 403) if credentials else (), *statuses)
        app.add_api_route(path, endpoint, response_model=model, responses=refusals, dependencies=credentials)
    app.add_middleware(GuardMiddleware, guard=guard, paths=(RANK,), roles=dict.fromkeys(OTHERS, Role.RANK))
    return app


def fitting(wire: WireSettings, about: About) -> WireSettings:
    """Settings of what a request may ask for, as far as they leave it open or too wide for what is served.

    Raises:
        ConfigError: they are of another catalogue.
    """
    if wire.n_items not in {None, about.n_items}:
        raise ConfigError(f"[wire] n_items is {wire.n_items}; the model has {about.n_items} items")
    if wire.most_k > about.k and "most_k" in wire.model_fields_set:
        logger.info("[wire] most_k is %d; lists have %d items, so that is the most", wire.most_k, about.k)
    return wire.model_copy(update={"n_items": about.n_items, "most_k": min(wire.most_k, about.k)})


class _Service:
    """A model from the first question to the last."""

    def __init__(self, answer: Answer, about: About, guard: Guard) -> None:
        self._about, self._guard = about, guard
        self._batcher = Batcher(answer)
        self._stage: Literal["starting", "ready", "draining"] = "starting"
        self._told: set[str] = set()
        self.wire = Wire(fitting(guard.settings.wire, about))

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self._stage = "ready"
        yield
        self._stage = "draining"
        await self._batcher.close()

    async def rank(self, request: Request) -> JSONResponse:
        """The best items to follow each history, best first.

        A history is item ids, oldest first; the model reads the end of one that is too long for it.
        """
        question = self.wire.question(await request.body())
        lists = await self._batcher.ask(question.histories)
        return JSONResponse({self.wire.settings.lists: [listed[: question.k] for listed in lists]})

    async def about(self) -> About:
        """What is served."""
        return self._about

    async def health(self) -> Health:
        """Whether the process runs."""
        return Health()

    async def ready(self) -> Readiness:
        """Whether questions are answered now."""
        trouble = set(self._guard.trouble)
        for reason in trouble - self._told:
            logger.error("not ready: %s", reason)  # which is not for everybody who may ask
        self._told = trouble
        if self._stage != "ready":
            raise Refused(503, "not_ready", f"the service is {self._stage}")
        if trouble:
            raise Refused(503, "not_ready", "the guard cannot answer as it is told to")
        return Readiness()


async def _refused(request: Request, refused: Refused) -> JSONResponse:
    return _problem(refused.status, refused.code, refused.detail, refused.headers)


async def _no_such_thing(request: Request, error: HTTPException) -> JSONResponse:
    """Answer a request for a path or a method that is not there."""
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return _problem(error.status_code, code, error.detail.lower(), error.headers)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    """Answer a request that failed for no fault of its own; the server logs the error."""
    return _problem(500, "failed", "the service failed")


def _problem(status: int, code: str, detail: str, headers: Any = None) -> JSONResponse:
    return JSONResponse(Problem(error=code, detail=detail).model_dump(), status, dict(headers or {}))


def _credentials(path: str, guard: Guard) -> list[Any]:
    return [] if path in guard.settings.open else list(CREDENTIALS)


def _refusals(*statuses: int) -> dict[int | str, Schema]:
    return {status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in statuses}


def _question(wire: WireSettings) -> Schema:
    """What :class:`Wire` takes, as a JSON schema."""
    item = {"type": "integer", "minimum": 1, "maximum": wire.n_items}
    history = {"type": "array", "items": item, "minItems": 1, "maxItems": wire.longest}
    histories = {"type": "array", "items": history, "minItems": 1, "maxItems": wire.most_histories}
    k = {"type": "integer", "minimum": 1, "maximum": wire.most_k, "default": wire.most_k}
    return _object({wire.histories: {"anyOf": [histories, history]}, wire.k: k}, [wire.histories])


def _lists(wire: WireSettings, about: About) -> Schema:
    item = {"type": "integer", "minimum": 1, "maximum": about.n_items}
    listed = {"type": "array", "items": item, "maxItems": wire.most_k, "uniqueItems": True}
    return _object({wire.lists: {"type": "array", "items": listed, "maxItems": wire.most_histories}}, [wire.lists])


def _object(fields: Schema, required: Iterable[str]) -> Schema:
    return {"type": "object", "properties": fields, "required": list(required)}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}
