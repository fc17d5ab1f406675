"""Interactions in, sequences out."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from gro.config import DataSettings
from gro.data.atomic import Interactions, read_inter
from gro.data.cards import DatasetCard, dataset_card, dataset_cards
from gro.data.filters import apply_filters
from gro.data.sequences import HeldOut, Sequences, sequences_from_rows
from gro.data.sources import Available, Source, available, find

__all__ = [
    "Available",
    "DatasetCard",
    "HeldOut",
    "Sequences",
    "Source",
    "available",
    "dataset_card",
    "dataset_cards",
    "find",
    "load",
]

logger = logging.getLogger(__name__)


def load(settings: DataSettings) -> Sequences:
    """Find, read, filter and order a dataset.

    Filters that the settings leave unset come from the dataset's card. Ids, rows and their order are those of RecBole's
    own pipeline with only the ``.inter`` file loaded.

    Raises:
        DataError: the dataset is missing, malformed or empty after filtering, or a user has fewer than three rows.
        ConfigError: the dataset's card is malformed.
    """
    card = dataset_card(settings.dataset)
    if card is not None:
        settings = card.complete(settings)
    rows = apply_filters(read_inter(find(settings).path, settings), settings)
    scaled = card is not None and card.recbole_scales_times
    keys = rows.times if settings.time_order == "exact" else _rounded(rows, scaled)
    sequences = sequences_from_rows(settings.dataset, rows.users, rows.items, keys, rows.user_tokens, rows.item_tokens)
    sequences.require_targets()
    return sequences


def _rounded(rows: Interactions, scaled: bool) -> npt.NDArray[np.float32]:
    """Return the times as RecBole's tensors hold them (``Dataset._normalize``, ``_dataframe_to_interaction``)."""
    times = rows.times
    if scaled and (span := np.ptp(times)) > 0:
        times = (times - times.min()) / span
    rounded = times.astype(np.float32)
    if len(np.unique(rounded)) < len(np.unique(times)):
        logger.info("%s: RecBole's 32-bit times merge distinct times; time_order = 'exact' keeps them", rows.path)
    return rounded
