"""A small GPT over bytes, to have something real to train.

Read bottom-up: attention, feed-forward, block, model. Pre-norm, learnt positions,
dropout (so that the random generators are part of the state), the output layer tied to
the embedding. 2 layers of width 160 are 0.67 million parameters; with AdamW's two
moments 8 MB of state. Left out: everything that makes a model good.

Shapes: B sequences, T positions, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large the model is; `context` in bytes of text."""

    layers: int = 2
    width: int = 160
    heads: int = 4
    context: int = 64
    vocabulary: int = 256
    dropout: float = 0.1


class Attention(nn.Module):
    """Each position looks at itself and those before it."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads, self.dropout = size.heads, size.dropout
        self.to_qkv = nn.Linear(size.width, 3 * size.width, bias=False)
        self.out = nn.Linear(size.width, size.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.to_qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            is_causal=True,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.widen = nn.Linear(size.width, 4 * size.width, bias=False)
        self.narrow = nn.Linear(4 * size.width, size.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(functional.gelu(self.widen(x)))


class Block(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.norm_1, self.attention = nn.LayerNorm(size.width), Attention(size)
        self.norm_2, self.feed_forward = nn.LayerNorm(size.width), FeedForward(size)
        self.drop = nn.Dropout(size.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.norm_1(x)))
        return x + self.drop(self.feed_forward(self.norm_2(x)))


class GPT(nn.Module):
    """Bytes in, the logits of each next byte out; with targets, the mean loss."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embed = nn.Embedding(size.vocabulary, size.width)
        self.position = nn.Parameter(torch.zeros(size.context, size.width))
        self.drop = nn.Dropout(size.dropout)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        x_BTD = self.drop(self.embed(tokens_BT) + self.position)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV = functional.linear(self.norm(x_BTD), self.embed.weight)
        return functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
