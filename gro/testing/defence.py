"""The contract of a part of a defence, as tests that whoever writes one inherits."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from gro.config import ModelSettings
from gro.data import Sequences
from gro.defenses.base import Part
from gro.defenses.pipeline import Defended
from gro.models import PADDING, StateRecommender, build
from gro.models.base import lengths
from gro.serving import RankingService

N_ITEMS, K, USERS = 40, 20, 30
SECRET = bytes(range(16))


class DefenceContract(ABC):
    """What every part must do; name the subclass ``Test...`` and return the part.

    Example::

        class TestMine(DefenceContract):
            def part(self) -> Part:
                return Mine(strength=0.5)
    """

    @abstractmethod
    def part(self) -> Part:
        """The part to be tested."""

    def model(self) -> StateRecommender:
        """A small model that the part can stand before."""
        settings = ModelSettings(hidden_size=8, inner_size=8, n_layers=1, n_heads=1, max_length=8)
        return build(settings, N_ITEMS).eval()

    def served(self, *, per_history: bool = True, secret: bytes = SECRET, seed: int = 0) -> Defended:
        """The model behind the part, which has measured what it needs."""
        model = self.model()
        fitted = self.part().fitted(model, _interactions())
        return Defended(model, [fitted], K, secret=secret, per_history=per_history, seed=seed)

    def test_lists_hold_distinct_items_and_end_in_padding(self) -> None:
        """A list is item ids of the catalogue, each once, right-padded and never empty."""
        lists = self.served().lists(_histories())
        assert lists.ndim == 2
        assert len(lists) == len(_histories())
        assert 1 <= lists.shape[1] <= K
        for row in lists.tolist():
            listed = [item for item in row if item != PADDING]
            assert row == listed + [PADDING] * (len(row) - len(listed))
            assert len(set(listed)) == len(listed) > 0
            assert all(1 <= item <= N_ITEMS for item in listed)

    def test_no_list_is_longer_than_what_the_part_says(self) -> None:
        """``exposed`` is the length of the lists."""
        served = self.served()
        assert served.k == self.part().exposed(K, N_ITEMS)
        assert served.lists(_histories()).shape[1] == served.k

    def test_the_same_history_has_the_same_answer(self) -> None:
        """With noise per history, asking again gains nothing, whatever is asked beside it."""
        served, histories = self.served(), _histories()
        whole = served.lists(histories)
        assert torch.equal(served.lists(histories), whole)
        order = torch.randperm(len(histories), generator=torch.Generator().manual_seed(1))
        assert torch.equal(served.lists(histories[order]), whole[order])
        for row in (0, len(histories) - 1):
            assert torch.equal(served.lists(histories[row : row + 1])[0], whole[row])

    def test_histories_that_grow_have_the_answers_that_they_have_alone(self) -> None:
        """What is remembered from one call to the next changes nothing."""
        growing, alone, histories = self.served(), self.served(), _histories()
        histories = histories[lengths(histories) == histories.shape[1]]
        grown = [growing.lists(histories[:, : end + 1]) for end in range(histories.shape[1])]
        for end in reversed(range(histories.shape[1])):
            assert torch.equal(grown[end], alone.lists(histories[:, : end + 1]))

    def test_the_same_seed_has_the_same_answers(self) -> None:
        """With noise per call, the seed alone decides."""
        first, again = (self.served(per_history=False, seed=3).lists(_histories()) for _ in range(2))
        assert torch.equal(first, again)

    def test_items_that_the_model_does_not_read_change_nothing(self) -> None:
        """Old items in front do not buy a second draw of the same answer."""
        served = self.served()
        recent = _histories()[lengths(_histories()) == served.max_length]
        longer = torch.cat([torch.ones(len(recent), 2, dtype=torch.int64), recent], dim=1)
        assert torch.equal(served.lists(longer), served.lists(recent))

    def test_a_service_serves_what_the_defence_lists(self) -> None:
        """What a caller gets is the defended list, and ranks agree with it."""
        served, histories = self.served(), _histories()
        assert torch.equal(RankingService(self.served(), served.k)(histories), served.lists(histories))

    def test_the_model_is_left_as_it_was(self) -> None:
        """Answering changes neither weights nor modes and leaves no hook behind."""
        served = self.served()
        before = {name: value.clone() for name, value in served.state_dict().items()}
        served.lists(_histories())
        after = served.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert not any(module._forward_hooks for module in served.modules())  # noqa: SLF001

    def test_the_settings_say_it_all(self) -> None:
        """A part that is written down and read again is the same part."""
        fitted = self.part().fitted(self.model(), _interactions())
        assert type(fitted).make(fitted.model_dump(mode="json")) == fitted


def _histories() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    histories = torch.randint(1, N_ITEMS + 1, (24, 8), generator=generator)
    sizes = 1 + torch.arange(24) % 8
    return histories.masked_fill(torch.arange(8) >= sizes[:, None], PADDING)


def _interactions() -> Sequences:
    rng = np.random.default_rng(0)
    sizes = rng.integers(4, 12, USERS)
    return Sequences(
        name="contract",
        indptr=np.concatenate([[0], sizes.cumsum()]),
        items=rng.integers(1, N_ITEMS + 1, sizes.sum()).astype(np.int32),
        item_tokens=np.array([str(item) for item in range(N_ITEMS + 1)]),
        user_tokens=np.array([str(user) for user in range(USERS)]),
    )
