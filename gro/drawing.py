"""Pictures as SVG, drawn by matplotlib, an extra."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from gro.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(width: float, height: float) -> Figure:
    """Return a figure that is the same file whenever it is drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure as Drawn  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("plots need matplotlib: pip install 'gro[plot]'") from None
    mpl.rcParams["svg.hashsalt"] = "gro"
    return Drawn(figsize=(width, height), layout="constrained")


def literal(text: str) -> str:
    """Return a text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")


def svg(drawn: Figure) -> str:
    """Return a figure as the text of an SVG file."""
    text = io.StringIO()
    drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
