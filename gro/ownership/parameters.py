r"""A watermark in the weights: a message that a secret reads from the geometry of the item table (white-box).

After Uchida et al. (ICMR 2017), whose secret is a matrix by which the weights themselves are multiplied. Here it is not
the weights that carry the message but what they can express, because a thief who holds weights may rewrite them.

**What is read.** Let ``W [n, r]`` be an orthonormal basis of the columns of the item table ``E [n, d]`` after the mean
row was taken off. The secret gives bit ``j`` two vectors of signs ``u_j, v_j`` over the items; the bit is the sign of

    t_j = (W^T u_j) . (W^T v_j) = u_j^T P v_j,     P = W W^T,

of how alike two random directions look to the model. ``P`` is all that is used of the table.

**What it survives exactly.** ``P`` is the same for ``E A + 1 b^T`` with any invertible ``A`` and any ``b``: for every
permutation, rotation and scaling of the hidden dimensions and every common shift. In GRU4Rec and NARM any ``A`` can be
hidden (``W_ih A^-T`` on the way in, ``A^-1`` on the last layer), in SASRec and BERT4Rec, whose layer norms commute with
little else, permutations, the sign, a scale and, against the positions, a shift; see
:func:`gro.ownership.washing.disguised`. More than that: the scores of any histories are ``Y = S E^T``, and where the
states ``S`` have full rank the columns of ``Y^T`` span those of ``E``, but for a constant per history, which moves no
list. So ``P`` is a property of the scores: whoever keeps them keeps the mark, in whatever architecture, and
:func:`ParameterMark.read` takes scores ``[n, histories]`` in place of a table.

**The p-value is exact.** Under another sign of the vector ``u_j`` the bit ``j`` flips, and the secret, unknown to whoever
made an innocent model, draws all signs independently. So the bits that a table made without the secret yields are fair
coins, independent of each other, *whatever the table and the message*: the number of right ones is Binomial(m, 1/2).
No calibration is needed, but the secret must have been committed to: who tries N secrets after the fact finds a p-value
N times smaller, and a :func:`hash <hashlib.shake_256>` leaves trying as the only way.

**How it is written.** By the smallest change of the table (Frobenius norm) that gives every ``t_j``, whose standard
deviation over secrets is about ``sqrt(r)``, the right sign and a lead of ``strength`` standard deviations: a least squares
problem of ``m`` equations, linear for small changes, solved a few times. Nothing is trained.

**What breaks it.** It says something only about a suspect whose weights, or scores, can be inspected. It does not survive
extraction: a copy that was trained from lists has a table of its own. A thief who adds dimensions that no state uses
hides ``P`` in a larger space; read such a suspect by its scores.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binomtest

from gro.errors import ConfigError, DataError
from gro.metrics import FloatArray
from gro.models import StateRecommender

Tokens = Sequence[str] | npt.NDArray[np.str_]

STRENGTH: Final = 3.0
"""Standard deviations by which every bit leads, unless it is told otherwise."""
ROUNDS: Final = 30
"""Linear problems that are solved before a message counts as too long for a table."""
REACHED: Final = 0.99
"""Share of the wanted lead at which a bit counts as written."""
SECRET: Final = 32
"""Bytes of a secret."""


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
        secret: 32 random bytes.
        message: what is written, such as the digest of a public key.
    """

    secret: bytes
    message: bytes

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ConfigError: the secret has another length, or the message is empty.
        """
        if len(self.secret) != SECRET or not self.message:
            sizes = f"a secret of {len(self.secret)} and a message of {len(self.message)} bytes"
            raise ConfigError(f"{sizes}: a parameter mark needs {SECRET} and at least 1")

    def read(self, columns: FloatArray, tokens: Tokens) -> Reading:
        """Read the message from an item table, or from scores of many histories.

        Args:
            columns: ``[n, d]``, a row per item: the suspect's item table, or its scores of ``d`` histories, more than
                its hidden size.
            tokens: token of the item of each row ``[n]``; items that the owner does not know do no harm.

        Raises:
            DataError: a number is not finite, or all rows are alike.
        """
        leads = self._leads(item_space(columns)[0], *self._directions(tokens))
        errors = int((leads <= 0).sum())
        p_value = binomtest(len(leads) - errors, len(leads), alternative="greater").pvalue
        return Reading(len(leads), errors, float(p_value), float(leads.mean()))

    def write(self, table: FloatArray, tokens: Tokens, strength: float = STRENGTH) -> FloatArray:
        """Return the item table ``[n, d]`` with the message in it: the nearest one that holds it.

        Args:
            table: of the model, a row per item.
            tokens: token of the item of each row ``[n]``.
            strength: lead that every bit is to have, in standard deviations.

        Raises:
            ConfigError: the message is too long for the table, or the lead too large.
            DataError: as :meth:`read`.
        """
        u, v = self._directions(tokens)
        changed = table.copy()
        for _ in range(ROUNDS):
            basis, inverse = item_space(changed)
            leads = self._leads(basis, u, v)
            low = leads < REACHED * strength
            if not low.any():
                return changed
            wanted = (strength - leads[low]) * np.sqrt(basis.shape[1])
            changed += _least_change(basis, inverse, u[:, low], v[:, low], wanted)
        raise ConfigError(
            f"{len(leads)} bits with a lead of {strength:g} do not fit into a table of {table.shape[0]} items and "
            f"{table.shape[1]} dimensions: take a shorter message, or a smaller strength"
        )

    def _directions(self, tokens: Tokens) -> tuple[FloatArray, FloatArray]:
        """The secret signs ``u, v [n, m]``, those of zeros in the message turned, so that every ``t_j`` is to be > 0.

        What an item has depends on its token alone.
        """
        size = len(self.message)
        rows = [hashlib.shake_256(self.secret + str(token).encode()).digest(2 * size) for token in tokens]
        drawn = _signs(b"".join(rows)).reshape(len(rows), 2, 8 * size)
        return drawn[:, 0] * _signs(self.message), drawn[:, 1]

    @staticmethod
    def _leads(basis: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
        """Leads ``t_j / sqrt(r)`` of all bits ``[m]``, in standard deviations."""
        leads: FloatArray = ((basis.T @ u) * (basis.T @ v)).sum(axis=0) / np.sqrt(basis.shape[1])
        return leads


def item_table(model: StateRecommender) -> FloatArray:
    """The vectors of the items 1..n_items of a model, ``[n_items, d]``."""
    return model.head.weight[1 : model.n_items + 1].detach().cpu().double().numpy()


def marked(
    model: StateRecommender, mark: ParameterMark, tokens: Tokens, strength: float = STRENGTH
) -> StateRecommender:
    """Return a copy of a model with the mark in its item table; a second mark leaves the first one where it is.

    Args:
        model: on any device.
        mark: secret and message.
        tokens: token of every item id ``[n_items + 1]``, as in an artifact; position 0 is the padding.
        strength: lead of every bit; the price in utility grows with it.

    Raises:
        GroError: as :meth:`ParameterMark.write`.
    """
    made = copy.deepcopy(model)
    table = made.head.weight
    with torch.no_grad():
        table[1 : model.n_items + 1] = torch.from_numpy(mark.write(item_table(model), tokens[1:], strength)).to(table)
    return made


def _signs(content: bytes) -> FloatArray:
    """A sign for every bit, 1.0 for a one."""
    return 2.0 * np.unpackbits(np.frombuffer(content, dtype=np.uint8)) - 1.0


def item_space(columns: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Orthonormal basis ``W [n, r]`` of the centred columns ``C [n, d]`` and ``K [d, r]`` with ``C K = W``.

    Directions below the precision of 32-bit floats are left out.
    """
    if not np.isfinite(columns).all():
        raise DataError("the item table holds a number that is nan or infinite")
    basis, size, turned = np.linalg.svd(columns - columns.mean(axis=0), full_matrices=False)
    kept = size > size[0] * max(columns.shape) * np.finfo(np.float32).eps
    if not kept.any():
        raise DataError("all rows of the item table are alike: there is nothing to read")
    return basis[:, kept], turned[kept].T / size[kept]


def _least_change(
    basis: FloatArray, inverse: FloatArray, u: FloatArray, v: FloatArray, wanted: FloatArray
) -> FloatArray:
    r"""The smallest change of a table that changes ``t_j`` by ``wanted [m]``, to first order: ``[n, d]``.

    ``dP = (I - P) dE K W^T`` and its transpose, so ``dt_j = <J_j, dE>`` with
    ``J_j = u'_j (K W^T v_j)^T + v'_j (K W^T u_j)^T``, where ``x' = (I - P) x`` of the centred ``x``. The smallest change is
    ``\sum_j l_j J_j`` with ``G l = wanted``, ``G_ij = <J_i, J_j>``, which needs no ``J``: a product of ranks one.
    """
    u, v = u - u.mean(axis=0), v - v.mean(axis=0)
    seen_u, seen_v = basis.T @ u, basis.T @ v
    new = np.hstack([u - basis @ seen_u, v - basis @ seen_v])
    along = np.hstack([inverse @ seen_v, inverse @ seen_u])
    products = (new.T @ new) * (along.T @ along)
    m = len(wanted)
    gram = products[:m, :m] + products[:m, m:] + products[m:, :m] + products[m:, m:]
    weights = np.tile(np.linalg.lstsq(gram, wanted, rcond=None)[0], 2)
    change: FloatArray = (new * weights) @ along.T
    return change
