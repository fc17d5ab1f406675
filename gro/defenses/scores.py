"""Defences that change scores before the list is made, after those of image classifiers (ART's postprocessors).

A classifier of ten classes has probabilities of some per cent and more; a catalogue of thousands has few as large. The
form "classifier" does to the softmax of the scores what the original does to probabilities; the form "ranking" asks the
same of the scores themselves, on a scale that does not depend on how many items there are.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from gro.config import PositiveFloat
from gro.defenses.base import ScorePart
from gro.defenses.noise import normal
from gro.errors import ConfigError
from gro.ranking import MASKED

Form = Literal["ranking", "classifier"]


class GaussianNoise(ScorePart):
    """Add normal noise to every score."""

    kind: Literal["gaussian-noise"] = "gaussian-noise"
    scale: PositiveFloat
    """Standard deviation: of a probability ("classifier"), or in standard deviations of a row of scores ("ranking")."""
    form: Form = "ranking"

    def scores(self, scores: Tensor, keys: Tensor, stream: int) -> Tensor:
        """See :meth:`gro.defenses.base.ScorePart.scores`."""
        noise = self.scale * normal(keys, scores.shape[1], stream)
        changed = scores.softmax(dim=1) + noise if self.form == "classifier" else scores + noise * _spread(scores)
        return changed.masked_fill(scores == MASKED, MASKED)


class Rounding(ScorePart):
    """Round scores: items that become equal are listed in the order of their ids."""

    kind: Literal["rounding"] = "rounding"
    step: PositiveFloat
    """Distance of what is left: 0.001 for three decimals of a probability ("classifier"), or in standard deviations of
    a row of scores, counted from its best ("ranking")."""
    form: Form = "ranking"

    def scores(self, scores: Tensor, keys: Tensor, stream: int) -> Tensor:
        """See :meth:`gro.defenses.base.ScorePart.scores`."""
        best = scores.amax(dim=1, keepdim=True)
        values = scores.softmax(dim=1) if self.form == "classifier" else (scores - best) / _spread(scores)
        return (values / self.step).round().masked_fill(scores == MASKED, MASKED)


class HighConfidence(ScorePart):
    """List only what the model is sure of; the best item always is."""

    kind: Literal["high-confidence"] = "high-confidence"
    cutoff: Annotated[float, Field(gt=0, lt=1)]
    """Least probability ("classifier"), or least part of the best item's probability ("ranking")."""
    form: Form = "ranking"

    def scores(self, scores: Tensor, keys: Tensor, stream: int) -> Tensor:
        """See :meth:`gro.defenses.base.ScorePart.scores`."""
        probabilities, best = scores.softmax(dim=1), scores.amax(dim=1, keepdim=True)
        least = self.cutoff * (1.0 if self.form == "classifier" else probabilities.amax(dim=1, keepdim=True))
        return scores.masked_fill((probabilities < least) & (scores < best), MASKED)


class ReverseSigmoid(ScorePart):
    """Pull probabilities to the middle (Lee et al., IEEE S&P Workshops 2019); see :func:`reverse_sigmoid`."""

    kind: Literal["reverse-sigmoid"] = "reverse-sigmoid"
    beta: PositiveFloat = 1.0
    gamma: PositiveFloat = 0.1
    form: Form = "classifier"

    def exposed(self, k: int, n_items: int) -> int:
        """See :meth:`gro.defenses.base.Part.exposed`."""
        if self.form == "ranking":
            raise ConfigError(
                "reverse-sigmoid in its form 'ranking' changes scores and never their order; lists alone are exposed "
                "here, so it would do nothing: use gro.defenses.scores.reverse_sigmoid where scores are served"
            )
        return k

    def scores(self, scores: Tensor, keys: Tensor, stream: int) -> Tensor:
        """See :meth:`gro.defenses.base.ScorePart.scores`."""
        changed = reverse_sigmoid(scores.double().softmax(dim=1), self.beta, self.gamma)
        return changed.masked_fill(scores == MASKED, MASKED)


def reverse_sigmoid(probabilities: Tensor, beta: float, gamma: float, *, keep_order: bool = False) -> Tensor:
    """``y - beta (sigmoid(gamma logit(y)) - 1/2)`` of probabilities ``y [B, n]`` in (0, 1), not normalised.

    For ``gamma < 1`` its slope ``1 - beta gamma s (1 - s) / (y (1 - y))``, ``s = sigmoid(gamma logit(y))``, is negative
    where ``y`` is small: of two such items the likelier one comes out below. With 10 classes that touches the
    unlikely ones; with thousands of items nearly all of a list.

    Args:
        probabilities: ``[B, n]``.
        beta: strength.
        gamma: steepness.
        keep_order: weaken each row's ``beta`` so far that the slope is negative nowhere between its items: no pair is
            turned around.
    """
    y = probabilities.clamp(torch.finfo(probabilities.dtype).tiny, 1 - torch.finfo(probabilities.dtype).eps)
    pull = (gamma * y.logit()).sigmoid()
    strength = torch.full_like(y[:, :1], beta)
    if keep_order:
        steepest = (gamma * pull * (1 - pull) / (y * (1 - y))).amax(dim=1, keepdim=True)
        strength = strength.minimum(1 / steepest.clamp(min=gamma))
    return y - strength * (pull - 0.5)


def _spread(scores: Tensor) -> Tensor:
    """Standard deviation of the scores of each row that are not masked: ``[B, 1]``."""
    listed = scores != MASKED
    known = scores.masked_fill(~listed, 0.0)
    count = listed.sum(dim=1, keepdim=True)
    centred = (known - known.sum(dim=1, keepdim=True) / count).masked_fill(~listed, 0.0)
    return (centred.square().sum(dim=1, keepdim=True) / count).sqrt().clamp(min=torch.finfo(scores.dtype).tiny)
