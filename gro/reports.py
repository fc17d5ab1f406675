"""What reports are made of: templates, what stands in their cells, and the folder that they are written to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from gro.errors import DataError


def environment(package: str) -> Environment:
    """Return the environment of a package's folder ``templates``: HTML is escaped, what is not given is an error."""
    made = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": percent, "cell": cell}
    return made


def percent(value: float | None) -> str:
    """Return a fraction in percent with one decimal, or a dash."""
    return "-" if value is None else f"{100 * value:.1f}"


def cell(text: str) -> str:
    """Return a text that stays in its cell of a Markdown table."""
    return " ".join(text.replace("|", r"\|").split())


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files of a report, by name.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder}: the report cannot be written: {error.strerror or error}") from None
