from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from gro import artifacts
from gro.config import ModelSettings, TrainingSettings
from gro.data import Sequences
from gro.errors import ArtifactError
from gro.metrics import agreement
from gro.models import build
from gro.optimizer.plain import fit
from gro.ownership.population import STRATA, Innocent, by_stratum, cell, raise_innocent, some_users
from gro.runs import dataset_of
from gro.serving import RankingService
from gro.training import Quiet
from gro_surrogates.settings import ThiefSettings

OWNER = TrainingSettings(epochs=3)


def test_a_cell_is_what_its_number_and_the_seed_say() -> None:
    assert cell(7, OWNER, 0) == cell(7, OWNER, 0)
    assert cell(7, OWNER, 0) != cell(7, OWNER, 1)
    assert len({cell(number, OWNER, 0).settings.seed for number in range(200)}) == 200


def test_half_of_the_innocents_differ_from_the_owners_model_by_the_seed_alone() -> None:
    cells = [cell(number, OWNER, 0) for number in range(120)]
    assert Counter(each.stratum for each in cells) == {"seed": 60, **dict.fromkeys(STRATA, 15)}
    for each in cells:
        settings = each.settings.model_copy(update={"seed": OWNER.seed})
        assert (settings == OWNER) == (each.stratum in {"seed", "users", "copy"})
        assert (each.users < 1) == (each.stratum == "users")
        assert (settings.model != OWNER.model) == (each.stratum == "architecture")
        ModelSettings.model_validate({name: getattr(settings, name) for name in ModelSettings.model_fields})


def test_a_share_of_the_users_keeps_their_whole_histories_and_the_catalogue(tiny: Sequences) -> None:
    some = some_users(tiny, 0.5, 3)
    assert (some.n_users, some.n_items) == (24, tiny.n_items)
    whole = {str(token): tiny.history(user).tolist() for user, token in enumerate(tiny.user_tokens)}
    assert all(some.history(user).tolist() == whole[str(token)] for user, token in enumerate(some.user_tokens))
    assert set(some.user_tokens.tolist()) != set(some_users(tiny, 0.5, 4).user_tokens.tolist())
    assert some_users(tiny, 1.0, 3) is tiny


def test_figures_keep_to_the_stratum_of_their_innocent() -> None:
    innocents = [Innocent(Path(), name, 1.0, "", "") for name in ("seed", "users", "seed")]
    found = by_stratum(np.array([[1.0], [2.0], [3.0]]), innocents)
    assert {name: rows.tolist() for name, rows in found.items()} == {"seed": [[1.0], [3.0]], "users": [[2.0]]}


def test_a_copy_among_innocents_is_stolen_from_a_model_of_its_own(learnt: Path, tmp_path: Path) -> None:
    owner = artifacts.load(learnt)
    sequences = dataset_of(owner, None)
    known = {name: owner.manifest.settings[name] for name in TrainingSettings.model_fields}
    recipe = TrainingSettings.make(known)
    number = 1 + 2 * STRATA.index("copy")
    planned = cell(number, recipe, 0)
    victim = build(planned.settings, sequences.n_items, seed=planned.settings.seed)
    fit(victim, sequences, planned.settings, folder=None, progress=Quiet())

    def raised(calls: int, seed: int = 0) -> Innocent:
        return raise_innocent(number, owner, sequences, recipe, seed, tmp_path / "copy", calls)

    found = raised(calls=1500)
    assert (found.stratum, planned.stratum) == ("copy", "copy")
    made = artifacts.load(found.folder)
    assert made.manifest.model == ThiefSettings().part(ModelSettings)
    assert made.item_tokens.tolist() == owner.item_tokens.tolist()
    histories = torch.randint(1, sequences.n_items + 1, (100, 4))
    copied, theirs, ours = (RankingService(each, 10)(histories).numpy() for each in (made.model, victim, owner.model))
    assert agreement(copied, theirs, 10).mean() > agreement(copied, ours, 10).mean()
    assert raised(calls=1500) == found
    with pytest.raises(ArtifactError, match="holds another model"):
        raised(calls=1500, seed=1)
