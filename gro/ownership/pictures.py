"""Pictures of a verdict, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from gro.drawing import figure, literal, svg
from gro.ownership.calibration import OTHERS

BINS: Final = 40
GREYS: Final = ("#1f3b57", "#5b86ad", "#a9c3da", "#dfe8f0")
"""Told apart in black and white too."""
SUSPECT: Final = "#c1272d"


def null_distribution(nulls: Mapping[str, Sequence[float]], statistic: float) -> str:
    """How often there is which statistic under a null, and where the suspect's is.

    Args:
        nulls: of other secrets, or of the innocents of each stratum.
        statistic: of the suspect.
    """
    if OTHERS in nulls:
        measured, counted, here = "what secrets read from the suspect", OTHERS, "the owner's secret"
    else:
        measured, counted, here = "likeness to the owner's model", "independent models", "the suspect"
    drawn = figure(7.2, 2.8)
    axes = drawn.subplots()
    everybody = np.concatenate([*nulls.values(), [statistic]])
    edges = np.histogram_bin_edges(everybody, BINS)
    colours = [GREYS[place % len(GREYS)] for place in range(len(nulls))]
    names = [literal(name) for name in nulls]
    axes.hist(list(nulls.values()), edges.tolist(), stacked=True, color=colours, label=names, edgecolor="white")
    axes.axvline(statistic, color=SUSPECT, linewidth=2, label=here)
    axes.set_xlabel(measured)
    axes.set_ylabel(counted)
    axes.locator_params(axis="y", integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    drawn.legend(loc="outside upper center", ncols=len(nulls) + 1, fontsize="small", frameon=False)
    return svg(drawn)
