"""GRU4Rec (Hidasi et al., ICLR 2016; Tan et al., DLRS 2016) and NARM (Li et al., CIKM 2017), with RecBole's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gro.config import ModelSettings
from gro.models.base import CausalRecommender

ATTENTION_CHUNK = 32


def _gru(settings: ModelSettings) -> nn.GRU:
    size = settings.hidden_size
    gru = nn.GRU(size, size, settings.n_layers, bias=False, batch_first=True)
    for weight in gru.parameters():
        nn.init.xavier_uniform_(weight)
    return gru


class GRU4Rec(CausalRecommender):
    """A gated recurrent network over the history."""

    def __init__(self, settings: ModelSettings, n_items: int) -> None:
        super().__init__(n_items, settings.max_length, settings.hidden_size)
        self.dropout = nn.Dropout(settings.dropout)
        self.gru = _gru(settings)
        self.dense = nn.Linear(settings.hidden_size, settings.hidden_size)
        nn.init.xavier_normal_(self.item_embedding.weight)

    def states(self, histories: Tensor) -> Tensor:
        """See :meth:`CausalRecommender.states`."""
        hidden: Tensor = self.gru(self.dropout(self.item_embedding(histories)))[0]
        states: Tensor = self.dense(hidden)
        return states

    def memory(self, batch: int) -> list[Tensor]:
        """The hidden state of every layer ``[layers, B, d]``."""
        return [self.head.weight.new_zeros(self.gru.num_layers, batch, self.gru.hidden_size)]

    def extend(self, memory: list[Tensor], position: int, items: Tensor) -> Tensor:
        """See :meth:`CausalRecommender.extend`."""
        output, hidden = self.gru(self.dropout(self.item_embedding(items))[:, None], memory[0])
        memory[0].copy_(hidden)
        state: Tensor = self.dense(output[:, 0])
        return state


class NARM(CausalRecommender):
    """A gated recurrent network whose last state attends to all earlier ones."""

    def __init__(self, settings: ModelSettings, n_items: int) -> None:
        super().__init__(n_items, settings.max_length, settings.hidden_size)
        size = settings.hidden_size
        self.dropout = nn.Dropout(settings.dropout)
        self.gru = _gru(settings)
        self.a_1 = nn.Linear(size, size, bias=False)
        self.a_2 = nn.Linear(size, size, bias=False)
        self.v_t = nn.Linear(size, 1, bias=False)
        self.b = nn.Linear(2 * size, size, bias=False)
        for layer in (self.item_embedding, self.a_1, self.a_2, self.v_t, self.b):
            nn.init.xavier_normal_(layer.weight)

    def states(self, histories: Tensor) -> Tensor:
        """See :meth:`CausalRecommender.states`; attention is made for a few positions at a time and recomputed."""
        hidden: Tensor = self.gru(self.dropout(self.item_embedding(histories)))[0]
        keys = self.a_1(hidden)
        chunks = range(0, hidden.shape[1], ATTENTION_CHUNK)
        return torch.cat([checkpoint(self._attend, keys, hidden, start, use_reentrant=False) for start in chunks], 1)

    def _attend(self, keys: Tensor, hidden: Tensor, start: int) -> Tensor:
        stop = min(start + ATTENTION_CHUNK, hidden.shape[1])
        earlier = torch.ones(stop - start, stop, dtype=torch.bool, device=hidden.device).tril(start)
        return self._mix(keys[:, :stop], hidden[:, :stop], hidden[:, start:stop], earlier[None])

    def _mix(self, keys: Tensor, hidden: Tensor, last: Tensor, earlier: Tensor) -> Tensor:
        """Combine ``last [B, Q, d]`` with the attended ``hidden [B, T, d]``; ``earlier [1, Q, T]`` masks the future."""
        weights = self.v_t(torch.sigmoid(keys[:, None] + self.a_2(last)[:, :, None]))[..., 0] * earlier
        states: Tensor = self.b(self.dropout(torch.cat([weights @ hidden, last], dim=-1)))
        return states

    def memory(self, batch: int) -> list[Tensor]:
        """Hidden state of every layer ``[layers, B, d]``, all outputs and attention keys ``[B, max_length, d]``."""
        size = self.gru.hidden_size
        table = self.head.weight
        outputs = (table.new_empty(batch, self.max_length, size) for _ in range(2))
        return [table.new_zeros(self.gru.num_layers, batch, size), *outputs]

    def extend(self, memory: list[Tensor], position: int, items: Tensor) -> Tensor:
        """See :meth:`CausalRecommender.extend`."""
        state, outputs, keys = memory
        last, hidden = self.gru(self.dropout(self.item_embedding(items))[:, None], state)
        state.copy_(hidden)
        outputs[:, position] = last[:, 0]
        keys[:, position] = self.a_1(last[:, 0])
        seen = torch.ones(1, 1, position + 1, dtype=torch.bool, device=last.device)
        return self._mix(keys[:, : position + 1], outputs[:, : position + 1], last, seen)[:, 0]
