"""What a thief does to a model in hand to wash a mark off: each takes a recommender and returns another."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from gro.config import ModelSettings, TrainingSettings
from gro.data import Sequences
from gro.errors import ConfigError
from gro.models import GRU4Rec, Recommender, StateRecommender
from gro.models.recurrent import NARM
from gro.models.transformer import BERT4Rec, Block
from gro.optimizer.plain import adamw, learn_epoch
from gro.ownership import promotion, triggers
from gro.ownership.marking import Mark, marked
from gro.ownership.parameters import KEY
from gro.ownership.settings import MarkSettings, PromotionSettings, TriggerSettings
from gro.serving import RankingService
from gro_surrogates.settings import ThiefSettings
from gro_surrogates.thief import Thief


def fine_tuned(model: StateRecommender, sequences: Sequences, settings: TrainingSettings) -> StateRecommender:
    """Train a copy of a model on for ``settings.epochs`` passes over the thief's own interactions."""
    made, seed = copy.deepcopy(model).train(), settings.seed * 1_000_003
    optimizer = adamw(made, settings)
    with torch.random.fork_rng():
        for number in range(settings.epochs):
            torch.manual_seed(seed + number)
            for _ in learn_epoch(made, optimizer, sequences, settings, seed + number):
                pass
    return made.eval()


def pruned(model: StateRecommender, share: float) -> StateRecommender:
    """Return a copy with the ``share`` of smallest weights of every matrix set to 0.

    Raises:
        ConfigError: the share is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise ConfigError(f"the share of weights to prune is {share}; it must be at least 0 and below 1")
    made = copy.deepcopy(model)
    with torch.no_grad():
        for weight in _matrices(made):
            smallest = weight.abs().flatten().argsort()[: round(share * weight.numel())]
            weight.view(-1)[smallest] = 0
    return made


def quantised(model: StateRecommender, bits: int) -> StateRecommender:
    """Return a copy whose matrices hold ``2 ** bits - 1`` evenly spaced values each, 0 in the middle.

    Raises:
        ConfigError: the bits are fewer than 2.
    """
    if bits < 2:
        raise ConfigError(f"weights of {bits} bit(s); symmetric quantisation needs at least 2")
    made, levels = copy.deepcopy(model), 2 ** (bits - 1) - 1
    with torch.no_grad():
        for weight in _matrices(made):
            step = weight.abs().max().clamp(min=torch.finfo(weight.dtype).tiny) / levels
            weight.copy_((weight / step).round() * step)
    return made


def disguised(model: StateRecommender, seed: int) -> StateRecommender:
    """Return another item table with the very same lists: what the architecture allows, drawn from ``seed``.

    GRU4Rec and NARM take any invertible map of the hidden dimensions; SASRec and BERT4Rec, for their layer norms, a
    permutation and a scale.
    """
    made, size = copy.deepcopy(model), model.item_embedding.embedding_dim
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        if isinstance(made, GRU4Rec | NARM):
            _mix(made, torch.from_numpy(np.eye(size) + rng.standard_normal((size, size)) / np.sqrt(size)))
        else:
            _permute(made, torch.from_numpy(rng.permutation(size)))
            _scale(made, float(rng.uniform(0.5, 2.0)))
    return made


def distilled(model: Recommender, settings: ThiefSettings, k: int, calls: int, seed: int) -> Recommender:
    """Steal a copy from the suspect's own lists of ``k``, with a budget of calls: fresh weights.

    Raises:
        ConfigError: as :class:`gro_surrogates.thief.Thief`.
    """
    return Thief(settings)(RankingService(model, k), model.n_items, calls, seed).surrogate


def overwritten(model: StateRecommender, architecture: ModelSettings, sequences: Sequences) -> StateRecommender:
    """Put a promotion, and trigger rings where the catalogue has room, of the thief's own into a copy at any cost.

    Raises:
        GroError: the copy ranks no validation item among its 10 best.
    """
    settings, rings = MarkSettings(utility_budget=1.0), TriggerSettings()
    own: list[Mark] = [promotion.drawn(model, secrets.token_bytes(KEY), PromotionSettings())]
    if sequences.n_items >= triggers.needed(rings):
        own.append(triggers.drawn(sequences, secrets.token_bytes(KEY), model.max_length, rings))
    for each in own:
        model, _ = marked(model, architecture, sequences, each, settings)
    return model


class Unlisted(nn.Module):
    """A recommender that never lists some items ``[m]``: a thief's who knows of how rare items triggers are made."""

    def __init__(self, model: Recommender, items: Tensor) -> None:
        super().__init__()
        self.model, self.items, self.n_items, self.max_length = model, items, model.n_items, model.max_length

    def scores(self, histories: Tensor) -> Tensor:
        """Score the next item after each history: ``[B, T]`` to ``[B, n_items]``."""
        return self.model.scores(histories).index_fill(1, self.items - 1, -torch.inf)


def _matrices(model: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.ndim > 1]


def _mix(model: GRU4Rec | NARM, by: Tensor) -> None:
    """Write the table ``E`` as ``E A``: what reads it takes ``A^-1`` in, what is compared with it ``A^-T`` out."""
    last = [model.dense.weight, model.dense.bias] if isinstance(model, GRU4Rec) else [model.b.weight]
    first, table = model.gru.get_parameter("weight_ih_l0"), model.item_embedding.weight
    inverse = torch.linalg.inv(by)
    for weight, changed in (
        (table, table.double() @ by),
        (first, first.double() @ inverse.T),
        *((weight, inverse @ weight.double()) for weight in last),
    ):
        weight.copy_(changed)


def _permute(model: StateRecommender, order: Tensor) -> None:
    """Number the dimensions of the stream that runs through all layers anew."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            _reorder(order, columns=[module.weight])
        elif isinstance(module, nn.LayerNorm):
            _reorder(order, rows=[module.weight, module.bias])
        elif isinstance(module, Block):
            _reorder(
                order,
                rows=[module.out.weight, module.out.bias, module.outer.weight, module.outer.bias],
                columns=[module.query.weight, module.key.weight, module.value.weight, module.inner.weight],
            )
    if isinstance(model, BERT4Rec):
        output = model.output
        _reorder(order, rows=[output.weight, output.bias], columns=[output.weight])


def _reorder(order: Tensor, rows: Sequence[Tensor] = (), columns: Sequence[Tensor] = ()) -> None:
    for weight in rows:
        weight.copy_(weight[order])
    for weight in columns:
        weight.copy_(weight[:, order])


def _scale(model: StateRecommender, by: float) -> None:
    """Multiply all that is added up before the first layer norm, and so all scores."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.weight.mul_(by)
    if isinstance(model, BERT4Rec):
        model.output_bias.mul_(by)
