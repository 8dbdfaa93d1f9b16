"""What a model is, as plain data: its sizes, and the presets that have names.

From the Gemini 1.0 report: a Transformer decoder, multi-query attention (`kv_heads`
1), a context of 32,768 tokens, the parameter counts of `nano_1` (1.80 billion) and
`nano_2` (3.25 billion). Everything else is not in the report: pre-norm RMSNorm, RoPE,
gated GELU, QK-norm, tied embeddings, five local layers to a global one, their window of
1,024 and the global layers' base of 1,000,000, a vocabulary of 256,000 are Gemma's
published practice; widths, depths, head sizes and the tower are our own choices.

    tiny      1.0 M    trained in minutes on two CPU cores
    mini      14 M     a teacher for tiny, hours there
    nano_1    1.80 B   counts of the report
    nano_2    3.25 B
    pro       63 B     shapes to lower and to plan with, nothing more: the report does
    ultra     366 B    not disclose their sizes, these are our guesses of the order
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from twinstep.errors import UsageError

CONTEXT_MAX = 32_768


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig:
    """The encoder that makes soft tokens of patches and of sound (our own choice).

    An image is cut into patches of `patch` x `patch` pixels of `channels` bytes;
    `pool` x `pool` patches that touch make one soft token. Sound comes as frames of
    `mel` bins, 100 a second; `stack` frames that follow make one soft token."""

    patch: int = 4
    pool: int = 2
    channels: int = 1
    mel: int = 40
    stack: int = 8
    width: int = 64
    layers: int = 1
    heads: int = 1
    hidden: int = 128
    grid: int = 64
    """Rows and columns of patches that have a position of their own: larger images are
    refused."""
    frames: int = 3000
    """Frames of a sound that have a position of their own: 30 s."""

    @property
    def window(self) -> int:
        """Patches of one soft token."""
        return self.pool * self.pool

    @property
    def pixels(self) -> int:
        """Bytes of one patch."""
        return self.patch * self.patch * self.channels


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes of one decoder. `hidden` is the width inside of the gated MLP; `pattern`
    has an L for a local and a G for a global layer, and is repeated over the layers;
    local layers attend to the last `window` tokens."""

    name: str
    vocabulary: int
    width: int
    layers: int
    heads: int
    hidden: int
    kv_heads: int = 1
    head_size: int = 64
    pattern: str = "G"
    window: int = 1024
    context: int = CONTEXT_MAX
    rope_base: float = 10_000.0
    rope_base_global: float = 10_000.0
    norm_epsilon: float = 1e-6
    logit_cap: float | None = None
    dtype: str = "float32"
    """Of activations; parameters are float32 for training on a CPU, and bfloat16 on a
    GPU is 2 bytes. On this project's CPUs bfloat16 is ten times slower."""
    scan: bool = False
    """Whether layers are one stacked array each and a loop (large models: fast to
    compile), or arrays of their own and unrolled (small ones: fast on a CPU)."""
    tower: TowerConfig = field(default_factory=TowerConfig)

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise UsageError(
                f"{self.name}: {self.heads} heads cannot share {self.kv_heads} key and "
                "value heads; heads must be a multiple of kv_heads"
            )
        if not self.pattern or set(self.pattern) - {"L", "G"}:
            raise UsageError(
                f"{self.name}: pattern {self.pattern!r}; allowed are L (local) and G "
                "(global), as in LLLLLG"
            )
        if self.context > CONTEXT_MAX:
            raise UsageError(
                f"{self.name}: a context of {self.context}; at most {CONTEXT_MAX}"
            )

    def is_local(self, layer: int) -> bool:
        return self.pattern[layer % len(self.pattern)] == "L"


TINY = ModelConfig(
    name="tiny",
    vocabulary=1024,
    width=128,
    layers=4,
    heads=2,
    hidden=384,
    context=2048,
)
MINI = ModelConfig(
    name="mini",
    vocabulary=4096,
    width=320,
    layers=8,
    heads=5,
    hidden=1280,
    pattern="LLLG",
    context=4096,
    tower=TowerConfig(width=160, layers=2, heads=2, hidden=640),
)
_TOWER = TowerConfig(
    patch=14,
    pool=4,
    channels=3,
    mel=80,
    width=768,
    layers=12,
    heads=12,
    hidden=2048,
)
"""Patches of 14 are ViT's practice (So400m/14), 4 x 4 to a soft token Gemma 3's; the
size is ours. Heads of all large presets divide by 16, an axis of a pod's mesh."""

NANO_1 = ModelConfig(
    name="nano_1",
    vocabulary=256_000,
    width=1536,
    layers=24,
    heads=16,
    head_size=128,
    hidden=10_432,
    pattern="LLLLLG",
    rope_base_global=1_000_000.0,
    dtype="bfloat16",
    scan=True,
    tower=_TOWER,
)
NANO_2 = replace(NANO_1, name="nano_2", width=2304, layers=30, hidden=10_880)
_LARGE = replace(_TOWER, width=1152, layers=27, heads=16, hidden=4304)
PRO = replace(
    NANO_1,
    name="pro",
    width=8192,
    layers=64,
    heads=64,
    hidden=32_768,
    tower=_LARGE,
)
ULTRA = replace(PRO, name="ultra", width=16_384, layers=96, heads=128, hidden=65_536)
PRESETS = {one.name: one for one in (TINY, MINI, NANO_1, NANO_2, PRO, ULTRA)}


def preset(name: str) -> ModelConfig:
    """Returns the preset of that name. Raises: UsageError with the names there are."""
    if name not in PRESETS:
        raise UsageError(f"no preset {name!r}; there are {', '.join(sorted(PRESETS))}")
    return PRESETS[name]


def resized(config: ModelConfig, **changes: object) -> ModelConfig:
    """Returns `config` with some sizes changed."""
    return replace(config, **changes)  # pyright: ignore[reportArgumentType]
