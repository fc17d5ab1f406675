"""SASRec (Kang & McAuley, ICDM 2018) and BERT4Rec (Sun et al., CIKM 2019), laid out so that RecBole's weights fit."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gro.config import ModelSettings
from gro.models.base import PADDING, CausalRecommender, StateRecommender, lengths, most_recent, take

LAYER_NORM_EPS = 1e-12


class Block(nn.Module):
    """One post-norm transformer layer. Plain ``nn.Linear`` projections, so that per-sample gradients can be hooked."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        size = settings.hidden_size
        self.n_heads = settings.n_heads
        self.query, self.key, self.value, self.out = (nn.Linear(size, size) for _ in range(4))
        self.attention_norm = nn.LayerNorm(size, eps=LAYER_NORM_EPS)
        self.inner = nn.Linear(size, settings.inner_size)
        self.outer = nn.Linear(settings.inner_size, size)
        self.output_norm = nn.LayerNorm(size, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(settings.dropout)
        self.attention_dropout = settings.attention_dropout

    def heads(self, x: Tensor) -> Tensor:
        """Split ``[B, T, d]`` into ``[B, heads, T, d / heads]``."""
        return x.view(*x.shape[:-1], self.n_heads, -1).transpose(1, 2)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform ``[B, T, d]``; causal unless a boolean mask (True = may attend) is given."""
        return self.attend(x, self.heads(self.key(x)), self.heads(self.value(x)), mask, causal=mask is None)

    def attend(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
        """Let ``x [B, Q, d]`` attend to keys and values ``[B, heads, T, d / heads]``, then feed forward."""
        context = F.scaled_dot_product_attention(
            self.heads(self.query(x)),
            key,
            value,
            attn_mask=mask,
            dropout_p=self.attention_dropout if self.training else 0.0,
            is_causal=causal,
        )
        x = self.attention_norm(x + self.dropout(self.out(context.transpose(1, 2).flatten(-2))))
        output: Tensor = self.output_norm(x + self.dropout(self.outer(F.gelu(self.inner(x)))))
        return output


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class SASRec(CausalRecommender):
    """Self-attentive sequential recommendation: causal attention over the history."""

    def __init__(self, settings: ModelSettings, n_items: int) -> None:
        super().__init__(n_items, settings.max_length, settings.hidden_size)
        self.n_heads = settings.n_heads
        self.position_embedding = nn.Embedding(settings.max_length, settings.hidden_size)
        self.norm = nn.LayerNorm(settings.hidden_size, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.n_layers))
        self.apply(_initialise)

    def states(self, histories: Tensor) -> Tensor:
        """See :meth:`CausalRecommender.states`."""
        positions = torch.arange(histories.shape[1], device=histories.device)
        x: Tensor = self.dropout(self.norm(self.item_embedding(histories) + self.position_embedding(positions)))
        for block in self.blocks:
            x = block(x)
        return x

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def memory(self, batch: int) -> list[Tensor]:
        """Keys and values of every layer, ``[B, heads, max_length, d / heads]`` each."""
        shape = (batch, self.n_heads, self.max_length, self.item_embedding.embedding_dim // self.n_heads)
        return [self.head.weight.new_empty(shape) for _ in range(2 * len(self.blocks))]

    def extend(self, memory: list[Tensor], position: int, items: Tensor) -> Tensor:
        """See :meth:`CausalRecommender.extend`."""
        x: Tensor = self.item_embedding(items) + self.position_embedding.weight[position]
        x = self.dropout(self.norm(x))[:, None]
        for block, keys, values in zip(self._blocks(), memory[::2], memory[1::2], strict=True):
            keys[:, :, position] = block.heads(block.key(x))[:, :, 0]
            values[:, :, position] = block.heads(block.value(x))[:, :, 0]
            x = block.attend(x, keys[:, :, : position + 1], values[:, :, : position + 1], None, causal=False)
        return x[:, 0]


class BERT4Rec(StateRecommender):
    """Bidirectional attention, Cloze training; the next item is read at a mask appended to the history."""

    one_pass = False

    def __init__(self, settings: ModelSettings, n_items: int) -> None:
        super().__init__(n_items, settings.max_length, settings.hidden_size, extra_items=1)
        size = settings.hidden_size
        self.drop_oldest = settings.drop_oldest
        self.mask_item = n_items + 1
        self.mask_ratio = settings.mask_ratio
        self.position_embedding = nn.Embedding(settings.max_length, size)
        self.norm = nn.LayerNorm(size, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.n_layers))
        self.output = nn.Linear(size, size)
        self.output_norm = nn.LayerNorm(size, eps=LAYER_NORM_EPS)
        self.output_bias = nn.Parameter(torch.zeros(n_items + 1))
        self.apply(_initialise)

    def item_bias(self) -> Tensor:
        """See :meth:`StateRecommender.item_bias`."""
        return self.output_bias[1:]

    def states(self, items: Tensor) -> Tensor:
        """State at every position of rows ``[B, T]`` that may hold ``mask_item``: ``[B, T, d]``."""
        positions = torch.arange(items.shape[1], device=items.device)
        x = self.dropout(self.norm(self.item_embedding(items) + self.position_embedding(positions)))
        mask = (items != PADDING)[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        states: Tensor = self.output_norm(F.gelu(self.output(x)))
        return states

    def prefix_states(self, histories: Tensor, ends: Tensor) -> Tensor:
        """See :meth:`StateRecommender.prefix_states`: one masked row per prefix."""
        rows, at = self.append_mask(histories, ends)
        return take(self.states(rows), at[:, None]).reshape(*ends.shape, -1)

    def append_mask(self, histories: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Write each prefix and a mask after it as a row: rows ``[B * m, T']`` and the mask's column ``[B * m]``."""
        end = ends.flatten()
        kept = (end if self.drop_oldest else end + 1).clamp(max=self.max_length - 1)
        column = torch.arange(int(kept.max()) + 1, device=histories.device)
        source = (end + 1 - kept)[:, None] + column
        owner = torch.arange(len(histories), device=histories.device).repeat_interleave(ends.shape[1])
        rows = histories[owner[:, None], source.clamp(max=histories.shape[1] - 1)]
        rows = rows.masked_fill(column >= kept[:, None], PADDING)
        return rows.scatter(1, kept[:, None], self.mask_item), kept

    def loss(self, windows: Tensor, context: Tensor | None = None) -> Tensor:
        """Cloze loss: a random share of the items, and of every other row the last one alone, is masked.

        Windows are cut to the model's ``max_length`` most recent items. The Cloze task reads both sides of an item and
        so takes context items like any other.
        """
        rows = most_recent(windows, self.max_length)
        column = torch.arange(rows.shape[1], device=rows.device)
        last = column == lengths(rows)[:, None] - 1
        cloze = (torch.rand(rows.shape, device=rows.device) < self.mask_ratio) & (rows != PADDING)
        cloze[::2] = last[::2]
        cloze |= last & ~cloze.any(dim=1, keepdim=True)
        states = self.states(rows.masked_fill(cloze, self.mask_item))
        return self.cross_entropy(states[cloze], rows[cloze])
