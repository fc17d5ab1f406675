"""Every part of the library keeps the contract that it asks of others."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from gro.defenses.base import Answer, ListPart, Part
from gro.defenses.inputs import EmbeddingNoise, EmbeddingScale, HistoryNoise
from gro.defenses.lists import Replace, Reverse, Shuffle, TieBlocks, Truncate
from gro.defenses.misinformation import Misinformation
from gro.defenses.redirection import Redirection
from gro.defenses.scores import GaussianNoise, HighConfidence, ReverseSigmoid, Rounding
from gro.testing.defence import DefenceContract


class TestTruncate(DefenceContract):
    def part(self) -> Part:
        return Truncate(k=7)


class TestShuffle(DefenceContract):
    def part(self) -> Part:
        return Shuffle(keep=3)


class TestReverse(DefenceContract):
    def part(self) -> Part:
        return Reverse()


class TestTieBlocks(DefenceContract):
    def part(self) -> Part:
        return TieBlocks(size=3, keep=2)


class TestReplace(DefenceContract):
    def part(self) -> Part:
        return Replace(probability=0.5, keep=2)


class TestGaussianNoise(DefenceContract):
    def part(self) -> Part:
        return GaussianNoise(scale=0.5)


class TestRounding(DefenceContract):
    def part(self) -> Part:
        return Rounding(step=0.5)


class TestHighConfidence(DefenceContract):
    def part(self) -> Part:
        return HighConfidence(cutoff=0.9)


class TestReverseSigmoid(DefenceContract):
    def part(self) -> Part:
        return ReverseSigmoid()


class TestHistoryNoise(DefenceContract):
    def part(self) -> Part:
        return HistoryNoise(dropout=0.4, substitution=0.4)


class TestEmbeddingNoise(DefenceContract):
    def part(self) -> Part:
        return EmbeddingNoise(scale=0.5)


class TestEmbeddingScale(DefenceContract):
    def part(self) -> Part:
        return EmbeddingScale(length=2.0)


class TestMisinformation(DefenceContract):
    def part(self) -> Part:
        return Misinformation(false_alarms=0.3)


class TestRedirection(DefenceContract):
    def part(self) -> Part:
        return Redirection(keep=2)


class TestBoundedRedirection(DefenceContract):
    def part(self) -> Part:
        return Redirection(keep=2, displacement=3)


class Tenth(ListPart):
    """A part of somebody else's."""

    kind: Literal["tenth"] = "tenth"

    def lists(self, answer: Answer) -> Tensor:
        return answer.lists.roll(1, dims=1)


class TestSomebodyElses(DefenceContract):
    def part(self) -> Part:
        return Tenth()
