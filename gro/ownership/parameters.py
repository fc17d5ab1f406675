r"""A watermark in the weights: a message that a secret reads from the geometry of the item table (white-box).

After Uchida et al. (ICMR 2017), whose secret is a matrix that multiplies the weights themselves. Here the message is in
what the weights can express, because a thief who holds weights may rewrite them.

**What is read.** Let ``W [n, r]`` be an orthonormal basis of the columns of the item table ``E [n, d]`` after its mean
row was taken off. The secret gives bit ``j`` two vectors of signs ``u_j, v_j`` over the items; the bit is the sign of

    t_j = (W^T u_j) . (W^T v_j) = u_j^T P v_j,     P = W W^T,

of how alike two random directions look to the model. ``P`` is all that is used of the table.

**What it survives exactly.** ``P`` is the same for ``E A + 1 b^T`` with any invertible ``A`` and any ``b``: for every
permutation, rotation and scaling of the hidden dimensions and every common shift. GRU4Rec and NARM can hide any ``A``
(``W_ih A^-T`` on the way in, ``A^-1`` on the last layer); SASRec and BERT4Rec, whose layer norms commute with little
else, a permutation, the sign, a scale and, against the positions, a shift; see
:func:`gro.ownership.washing.disguised`. More than that: the scores of any histories are ``Y = S E^T``, and where the
states ``S`` have full rank, the columns of ``Y^T`` span those of ``E``, but for a constant per history, which moves no
list. So ``P`` is a property of the scores (of BERT4Rec's with one more column, its bias): who keeps them keeps the
mark, in whatever architecture, and :meth:`ParameterMark.reading` takes scores in place of a table.

**The p-value is exact.** Another sign of the vector ``u_j`` flips bit ``j``, and the key, unknown to whoever made an
innocent model, draws all signs independently (they come from a hash of it). So the bits read from a table that was made
without the key are fair coins, independent of each other, *whatever the table and the message*: the number of right
ones is Binomial(m, 1/2). No calibration is needed. But key and message must have been committed to before the suspect
was seen, since anybody can write down what a key of his happens to read.

**How it is written.** By the least change of the table that gives every ``t_j``, whose standard deviation over secrets
is about ``sqrt(r)``, the right sign and a lead of ``strength`` standard deviations: a least squares problem of ``m``
equations, solved a few times, since they are linear for small changes only. Nothing is trained. The change is measured
halfway between the table's norm, by which the message goes where it is cheapest, into the weak directions, and that of
``P``, by which it goes where the model is strong: see :data:`DEPTH`.

**What breaks it.** Only a suspect whose weights or scores can be inspected is read. **Extraction mostly ends it**: a
copy that was trained from lists has a table of its own, whose bits are nearly coins; of 24 copies on ml-100k four were
claimed at 1 %, of the same architecture and trained on random or mixed histories. Pruning, rounding and noise end it
only together with the lists' worth. Training on does, with the data and the effort of a new training: many epochs, or
few at several times the learning rate. A table of much lower rank weakens it cheaply, as do added dimensions that no
state uses, in which ``P`` drowns: read such a suspect by its scores. A second mark ends nothing: both are read, and the
older commitment tells whose the model is.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, Self

import numpy as np
import torch
from scipy.stats import binomtest

from gro.config import Settings
from gro.errors import ConfigError, DataError
from gro.metrics import FloatArray
from gro.models import StateRecommender
from gro.ownership.suspect import Inconclusive, Suspect, Tokens, item_table

STRENGTH: Final = 3.0
"""Standard deviations by which every bit leads, unless it is told otherwise."""
DEPTH: Final = 0.5
"""How dear a change is in a direction of singular value s of the table: ``s ** -DEPTH``. 0 counts all alike, and who
cuts off the weak directions is rid of the message; 1 measures the change of ``P``, and costs utility."""
ROUNDS: Final = 30
"""Linear problems that are solved before a message counts as too long for a table."""
REACHED: Final = 0.99
"""Share of the wanted lead at which a bit counts as written."""
KEY: Final = 32
"""Bytes of a key."""


class Secret(Settings):
    """What is committed to, in hexadecimal."""

    test: Literal["parameters"]
    key: str
    message: str


class ItemSpace(NamedTuple):
    """What a table ``[n, d]`` can express: ``basis [n, r] * sizes [r] @ axes [r, d]``, after the mean row is off."""

    basis: FloatArray
    sizes: FloatArray
    axes: FloatArray


@dataclass(frozen=True, slots=True)
class Reading:
    """What a secret reads from a suspect.

    Attributes:
        bits: length of the message.
        errors: bits that are wrong.
        p_value: probability of so few wrong ones in a model made without the secret; exact.
        lead: mean lead of the right bits in standard deviations: about 0 for innocent models.
    """

    bits: int
    errors: int
    p_value: float
    lead: float

    @property
    def bit_error_rate(self) -> float:
        """Share of wrong bits: about 1/2 for innocent models."""
        return self.errors / self.bits


@dataclass(frozen=True, slots=True)
class ParameterMark:
    """A secret and the message that it reads.

    Attributes:
        key: 32 random bytes.
        message: what is written, such as the beginning of the digest of a public key.
    """

    key: bytes
    message: bytes
    name: str = "parameters"

    @property
    def calls(self) -> int:
        """It asks nothing: it reads the weights."""
        return 0

    def examine(self, suspect: Suspect, draws: int) -> tuple[float, FloatArray]:
        """Read the share of right bits from a suspect's item table; the coins that it is of any other key.

        Raises:
            Inconclusive: the suspect's weights are not at hand, or hold nothing to read.
        """
        if suspect.inside is None:
            raise Inconclusive("the suspect's weights are not at hand, and a mark in parameters is read from them")
        try:
            found = self.reading(*suspect.inside)
        except DataError as error:
            raise Inconclusive(f"the suspect: {error}") from None
        coins = np.random.default_rng([*self.name.encode()]).binomial(found.bits, 0.5, draws) / found.bits
        return (found.bits - found.errors) / found.bits, coins

    def another(self, key: bytes) -> Self:
        """The same message by another key of 32 bytes: what another draw would have been."""
        return replace(self, key=key)

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ConfigError: the key has another length, or the message is empty.
        """
        if len(self.key) != KEY or not self.message:
            sizes = f"a key of {len(self.key)} and a message of {len(self.message)} bytes"
            raise ConfigError(f"{sizes}: a parameter mark needs {KEY} and at least 1")

    def secret(self) -> bytes:
        """What is committed to and kept; :func:`read` makes the mark again from it."""
        return Secret(test="parameters", key=self.key.hex(), message=self.message.hex()).model_dump_json().encode()

    def reading(self, columns: FloatArray, tokens: Tokens) -> Reading:
        """Read the message from an item table, or from scores of many histories.

        Args:
            columns: a row per item: the suspect's item table ``[n, d]``, or its scores of more histories than it has
                hidden dimensions ``[n, histories]``.
            tokens: token of the item of each row ``[n]``, in any order; the owner's items that are missing, and items
                that are not the owner's, weaken the reading and do not bias it.

        Raises:
            DataError: a number is not finite, or all rows are alike.
        """
        leads = _leads(item_space(columns), *self._directions(tokens))
        right = int((leads > 0).sum())
        p_value = binomtest(right, len(leads), alternative="greater").pvalue
        return Reading(len(leads), len(leads) - right, float(p_value), float(leads.mean()))

    def write(self, table: FloatArray, tokens: Tokens, strength: float = STRENGTH) -> FloatArray:
        """Return the item table ``[n, d]`` with the message in it.

        Args:
            table: of the model, a row per item.
            tokens: token of the item of each row ``[n]``.
            strength: lead that every bit is to have, in standard deviations.

        Raises:
            ConfigError: the message is too long for the table, or the lead too large.
            DataError: as :meth:`reading`.
        """
        u, v = self._directions(tokens)
        changed = table.copy()
        for _ in range(ROUNDS):
            space = item_space(changed)
            leads = _leads(space, u, v)
            low = leads < REACHED * strength
            if not low.any():
                return changed
            changed += _least_change(space, u[:, low], v[:, low], strength - leads[low])
        size = f"{table.shape[0]} items and {table.shape[1]} dimensions"
        raise ConfigError(
            f"{8 * len(self.message)} bits with a lead of {strength:g} do not fit into a table of {size}: "
            "take a shorter message, or a smaller strength"
        )

    def _directions(self, tokens: Tokens) -> tuple[FloatArray, FloatArray]:
        """The secret signs ``u, v [n, m]``; zeros of the message turn theirs, so that every ``t_j`` is to be positive.

        What an item has depends on its token alone.
        """
        size = len(self.message)
        rows = [hashlib.shake_256(self.key + str(token).encode()).digest(2 * size) for token in tokens]
        drawn = _signs(b"".join(rows)).reshape(len(rows), 2, 8 * size)
        return drawn[:, 0] * _signs(self.message), drawn[:, 1]


def read(secret: bytes, source: str, name: str = "parameters") -> ParameterMark:
    """The mark of a secret that was opened, under the name that it was committed to.

    Raises:
        DataError: it is malformed.
    """
    try:
        found = Secret.make(json.loads(secret), source)
        return ParameterMark(bytes.fromhex(found.key), bytes.fromhex(found.message), name)
    except (ValueError, TypeError, RecursionError, ConfigError):
        raise DataError(f"{source}: holds no parameter mark") from None


def marked(
    model: StateRecommender, mark: ParameterMark, tokens: Tokens, strength: float = STRENGTH
) -> StateRecommender:
    """Return a copy of a model with the mark in its item table; a second mark leaves the first one where it is.

    Args:
        model: on any device.
        mark: key and message.
        tokens: token of every item id ``[n_items + 1]``, as in an artifact; position 0 is the padding.
        strength: lead of every bit; the price in utility grows with it.

    Raises:
        GroError: as :meth:`ParameterMark.write`.
    """
    made = copy.deepcopy(model)
    table = mark.write(item_table(model), tokens[1:], strength)
    with torch.no_grad():
        made.head.weight[1 : model.n_items + 1] = torch.from_numpy(table).to(made.head.weight)
    return made


def item_space(columns: FloatArray) -> ItemSpace:
    """What columns ``[n, d]`` span after their mean is taken off; directions below 32-bit precision are left out.

    Raises:
        DataError: a number is not finite, or all rows are alike.
    """
    if not np.isfinite(columns).all():
        raise DataError("the item table holds a number that is nan or infinite")
    basis, sizes, axes = np.linalg.svd(columns - columns.mean(axis=0), full_matrices=False)
    kept = sizes > np.abs(columns).max() * max(columns.shape) * np.finfo(np.float32).eps
    if not kept.any():
        raise DataError("all rows of the item table are alike: there is nothing to read")
    return ItemSpace(basis[:, kept], sizes[kept], axes[kept])


def _signs(content: bytes) -> FloatArray:
    """A sign for every bit, 1.0 for a one."""
    return 2 * np.unpackbits(np.frombuffer(content, dtype=np.uint8)).astype(np.float64) - 1


def _leads(space: ItemSpace, u: FloatArray, v: FloatArray) -> FloatArray:
    """``t_j / sqrt(r)`` of all bits ``[m]``: leads in standard deviations."""
    seen_u, seen_v = space.basis.T @ u, space.basis.T @ v
    leads: FloatArray = (seen_u * seen_v).sum(axis=0) / np.sqrt(len(space.sizes))
    return leads


def _least_change(space: ItemSpace, u: FloatArray, v: FloatArray, wanted: FloatArray) -> FloatArray:
    r"""The least change of a table ``W S Z^T`` that raises the leads by ``wanted [m]``, to first order: ``[n, d]``.

    A change ``D S^a Z^T`` has the size ``|D|`` (a is :data:`DEPTH`) and changes ``P`` by ``(I - P) D S^(a - 1) W^T``
    and its transpose. So ``dt_j = <J_j, D>``, ``J_j = u'_j (S^(a - 1) W^T v_j)^T + v'_j (S^(a - 1) W^T u_j)^T``, where
    ``x'`` is what the table does not see of the centred ``x``. The least ``D`` is ``\sum_j l_j J_j`` with ``G l = dt``,
    ``G_ij = <J_i, J_j>``; no ``J`` is made, for each is a product of two vectors, twice.
    """
    basis, sizes, axes = space
    u, v = u - u.mean(axis=0), v - v.mean(axis=0)
    seen_u, seen_v = basis.T @ u, basis.T @ v
    unseen = np.hstack([u - basis @ seen_u, v - basis @ seen_v])
    seen = np.hstack([seen_v, seen_u]) * sizes[:, None] ** (DEPTH - 1)
    products, m = (unseen.T @ unseen) * (seen.T @ seen), len(wanted)
    gram = products[:m, :m] + products[:m, m:] + products[m:, :m] + products[m:, m:]
    weights = np.linalg.lstsq(gram, wanted * np.sqrt(len(sizes)), rcond=None)[0]
    change: FloatArray = (unseen * np.tile(weights, 2)) @ seen.T @ (sizes[:, None] ** DEPTH * axes)
    return change
