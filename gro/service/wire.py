"""What goes over the wire: which histories a request asks about, and which lists a response gives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, NoReturn, TypeAlias, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from gro.config import PositiveInt, Settings
from gro.errors import GroError
from gro.service.core import Refused

MOST_ITEMS: Final = 2**31 - 1
History: TypeAlias = list[int]
ReadT = TypeVar("ReadT")
Listed = Annotated[int, Field(strict=True, ge=0, le=MOST_ITEMS)]
"""An item of a list, or 0 where lists are padded."""


class WireSettings(Settings):
    """Names of fields in the service's JSON, and how much one request may ask for."""

    histories: str = "histories"
    """Field of the request that holds histories, item ids oldest first: a list of lists, or one list."""
    k: str = "k"
    """Field of the request that holds the length of the lists it asks for, if it holds one."""
    lists: str = "lists"
    """Field of the response that holds the lists of item ids, best first."""
    longest: PositiveInt = 1_000
    """Most items of a history."""
    most_histories: PositiveInt = 256
    """Most histories of a request."""
    most_bytes: PositiveInt = 1 << 20
    """Most bytes of a request's body."""
    n_items: PositiveInt | None = None
    """Size of the catalogue whose ids are 1..n_items; unset lets the service judge ids."""
    most_k: PositiveInt = 100
    """Longest list that is answered; also what a request costs that does not say how long its lists are."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks for.

    Attributes:
        histories: item ids, oldest first.
        k: length of the lists.
    """

    histories: list[History]
    k: int

    @property
    def entries(self) -> int:
        """List entries that an answer serves at most."""
        return len(self.histories) * self.k


class Wire:
    """Reads requests and responses."""

    def __init__(self, settings: WireSettings) -> None:
        self.settings = settings
        highest = settings.n_items or MOST_ITEMS
        item: Any = Annotated[int, Field(strict=True, ge=1, le=highest)]
        histories = _lists_of(_lists_of(item, settings.longest), settings.most_histories)
        k: Any = Annotated[int, Field(strict=True, ge=1, le=settings.most_k)]
        self._histories: TypeAdapter[list[History]] = TypeAdapter(histories)
        self._k: TypeAdapter[int] = TypeAdapter(k)
        self._lists: TypeAdapter[list[History]] = TypeAdapter(list[list[Listed]])

    def question(self, body: bytes) -> Question:
        """Read the body of a request.

        Raises:
            Refused: 413 or 400; it is too large, not JSON, or not a question. The answer says what would be right.
        """
        settings = self.settings
        if len(body) > settings.most_bytes:
            raise too_large(settings.most_bytes)
        fields = _object(body)
        if settings.histories not in fields:
            raise Refused(400, "histories_missing", f"the request has no field '{settings.histories}'")
        asked = fields[settings.histories]
        histories = self._read(settings.histories, self._histories, asked if _several(asked) else [asked])
        return Question(histories, self._read(settings.k, self._k, fields.get(settings.k, settings.most_k)))

    def lists(self, body: bytes) -> list[History]:
        """Read the body of a response.

        Raises:
            GroError: it holds no lists where the settings say.
        """
        try:
            found = json.loads(body)[self.settings.lists]
            return self._lists.validate_python(found if _several(found) else [found])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise GroError(f"the response has no field '{self.settings.lists}' of lists") from None

    def with_lists(self, body: bytes, lists: Sequence[Sequence[int]]) -> bytes:
        """Return a response that :meth:`lists` can read with other lists in it."""
        fields = json.loads(body)
        name = self.settings.lists
        fields[name] = lists if _several(fields[name]) else lists[0]
        return json.dumps(fields, separators=(",", ":")).encode()

    def _read(self, name: str, kind: TypeAdapter[ReadT], asked: Any) -> ReadT:
        try:
            return kind.validate_python(asked)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
        place = "".join(f"[{each}]" for each in problem["loc"])
        wanted = f"histories are lists of 1 to {self.settings.longest} item ids{_upto(self.settings.n_items)}"
        told = f"{name}{place}: {problem['msg'].lower()}; {wanted}, k is 1 to {self.settings.most_k}"
        raise Refused(400, "question_malformed", told)


def _lists_of(item: Any, most: int) -> Any:
    """Lists that are refused for the first thing wrong: to find all of 250,000 takes seconds."""
    return Annotated[list[item], Field(min_length=1, max_length=most, fail_fast=True)]


def too_large(most: int) -> Refused:
    """The refusal of a body of more than ``most`` bytes."""
    return Refused(413, "body_too_large", f"the body has more than {most:,} bytes")


def _several(found: Any) -> bool:
    """Whether a field holds a list of lists, and not one list alone."""
    return isinstance(found, list) and bool(found) and isinstance(found[0], list)


def _upto(n_items: int | None) -> str:
    return f", whole numbers from 1{f' to {n_items}' if n_items else ''}"


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        fields = json.loads(body.decode(), object_pairs_hook=_once, parse_float=_number, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Refused(400, "not_json", "the body is not a JSON object in UTF-8, each field given once") from None
    if not isinstance(fields, dict):
        raise Refused(400, "not_json", "the body is not a JSON object in UTF-8, each field given once")
    return fields


def _number(text: str) -> int | float:
    """1.0 is an integer, as JSON Schema has it."""
    number = float(text)
    return int(number) if number.is_integer() else number


def _no_number(text: str) -> NoReturn:
    """NaN and Infinity are Python's, not JSON's."""
    raise ValueError(f"{text} is no number")


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A field that is given twice is read one way by us and another way by the service behind us."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field is given twice")
    return found
