"""Names public machines, with what their makers publish of them.

A number that is not published is in `assumed`, with the reason; 0 is "not known". What
GEMINI's Table 1 prints is kept beside, since it is not always what the maker says.

Left out: prices, cores, disks, and what a machine's network reaches in practice (the
planner takes 60 % of it, policies.SEND_SHARE).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from twinstep.errors import ConfigError
from twinstep.planner.topology import Pods

GB = 1e9
GIB = 2.0**30
GBIT_PER_S = 1e9 / 8
PAPER = "GEMINI (doi 10.1145/3600006.3613145)"
EC2 = "https://docs.aws.amazon.com/ec2/latest/instancetypes/ac.html"
EFA_CARDS = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/efa-acc-inst-types.md"
TORCHX = "meta-pytorch/torchx torchx/specs/named_resources_aws.py"
GCP_NETWORK = "https://cloud.google.com/compute/docs/gpus/gpu-network-bandwidth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One kind of machine. Speeds in bytes a second, each way at once."""

    name: str
    product: str
    memory_bytes: float
    """Of the machine, all of it."""
    accelerators: int
    accelerator: str
    accelerator_bytes: float
    """Memory of each."""
    network_bytes_per_s: float
    """Of the machine, towards other machines: the line rate."""
    host_bytes_per_s: float = 0.0
    """Between all its accelerators and its memory; 0: not known."""
    copies: int = 2
    source: str
    assumed: tuple[str, ...] = ()
    table_1: tuple[int, int, int] | None = None
    """As GEMINI's Table 1 prints it: accelerators, GB of each, GB of the machine."""
    pods: Pods | None = None
    """How the chips are wired, where they are pods of cubes."""

    @property
    def accelerators_bytes(self) -> float:
        return self.accelerators * self.accelerator_bytes

    @property
    def memory_ratio(self) -> float:
        """Machine memory over that of its accelerators, whose state it has to hold."""
        return self.memory_bytes / self.accelerators_bytes


TPU_V4 = Pods(
    cube=(4, 4, 4),
    chips_per_host=4,
    cubes_per_pod=64,
    standby_cubes=4,
    rewire_s=10.0,
    link_bytes_per_s=400 * GBIT_PER_S,
    host_bytes_per_s=100 * GBIT_PER_S,
    chips_bytes_per_s=4 * 15.75e9,
)
TPU_V5E = Pods(
    cube=(16, 16, 1),
    chips_per_host=8,
    cubes_per_pod=1,
    switched=False,
    rewire_s=0.0,
    link_bytes_per_s=50e9,
    host_bytes_per_s=200 * GBIT_PER_S,
    chips_bytes_per_s=8 * 15.75e9,
)

_ALL = (
    Preset(
        name="p3dn",
        product="p3dn.24xlarge",
        memory_bytes=768 * GIB,
        accelerators=8,
        accelerator="V100",
        accelerator_bytes=32 * GB,
        network_bytes_per_s=100 * GBIT_PER_S,
        source=f"{PAPER}, Table 1 and section 7.1 (100 Gbit/s EFA)",
        assumed=("Table 1's 768 GB are GiB, as EC2 counts memory",),
        table_1=(8, 32, 768),
    ),
    Preset(
        name="p4d",
        product="p4d.24xlarge",
        memory_bytes=1152 * GIB,
        accelerators=8,
        accelerator="A100",
        accelerator_bytes=40 * GB,
        network_bytes_per_s=400 * GBIT_PER_S,
        host_bytes_per_s=400 * GBIT_PER_S,
        source=f"{PAPER}, Table 1, sections 5.2 (copies to memory as fast as the "
        "network) and 7.1; "
        "https://aws.amazon.com/blogs/compute/amazon-ec2-p4d-instances-deep-dive/",
        assumed=("Table 1's 1152 GB are GiB, as EC2 counts memory",),
        table_1=(8, 40, 1152),
    ),
    Preset(
        name="nd40rs_v2",
        product="Standard_ND40rs_v2",
        memory_bytes=672 * GIB,
        accelerators=8,
        accelerator="V100",
        accelerator_bytes=32 * GB,
        network_bytes_per_s=100 * GBIT_PER_S,
        source="https://learn.microsoft.com/azure/virtual-machines/ndv2-series",
        table_1=(8, 32, 672),
    ),
    Preset(
        name="nd96asr_v4",
        product="Standard_ND96asr_v4",
        memory_bytes=900 * GIB,
        accelerators=8,
        accelerator="A100",
        accelerator_bytes=40 * GB,
        network_bytes_per_s=8 * 200 * GBIT_PER_S,
        source="https://learn.microsoft.com/azure/virtual-machines/sizes/"
        "gpu-accelerated/ndasra100v4-series (200 Gbit/s InfiniBand for each GPU)",
        assumed=("900 GB in other listings are GiB, as Azure counts memory",),
        table_1=(8, 40, 900),
    ),
    Preset(
        name="n1-8-v100",
        product="n1-8-v100",
        memory_bytes=624 * GIB,
        accelerators=8,
        accelerator="V100",
        accelerator_bytes=32 * GB,
        network_bytes_per_s=100 * GBIT_PER_S,
        source=f"{PAPER}, Table 1; {GCP_NETWORK} (at most 100 Gbit/s)",
        assumed=(
            "Table 1's 624 GB are GiB, as Compute Engine counts memory",
            "32 GB are Table 1's; other listings of this cloud's V100 say 16",
        ),
        table_1=(8, 32, 624),
    ),
    Preset(
        name="a2-highgpu-8g",
        product="a2-highgpu-8g",
        memory_bytes=680 * GIB,
        accelerators=8,
        accelerator="A100",
        accelerator_bytes=40 * GB,
        network_bytes_per_s=100 * GBIT_PER_S,
        source=f"{GCP_NETWORK}; skypilot-org/skypilot-catalog gcp/vms.csv (85 GiB for "
        "1 GPU, 170 for 2)",
        assumed=("680 GiB are 85 for each GPU; Table 1 prints 640 GB",),
        table_1=(8, 40, 640),
    ),
    Preset(
        name="dgx-a100",
        product="DGX A100 640GB",
        memory_bytes=2000 * GB,
        accelerators=8,
        accelerator="A100",
        accelerator_bytes=80 * GB,
        network_bytes_per_s=8 * 200 * GBIT_PER_S,
        source=f"{PAPER}, Table 1; "
        "https://developer.nvidia.com/blog/defining-ai-innovation-with-dgx-a100",
        assumed=(
            "2 TB taken as 2e12 bytes; eight adapters of 200 Gbit/s for training",
        ),
        table_1=(8, 80, 2000),
    ),
    Preset(
        name="h100",
        product="p5.48xlarge",
        memory_bytes=2048 * GIB,
        accelerators=8,
        accelerator="H100",
        accelerator_bytes=80 * GB,
        network_bytes_per_s=3200 * GBIT_PER_S,
        source=f"{EC2}; {TORCHX} (2048 GiB, 32 EFA cards); {EFA_CARDS}",
        assumed=(
            "3200 Gbit/s are 32 cards of 100; read in listings, not in EC2's page",
        ),
    ),
    Preset(
        name="h200",
        product="p5en.48xlarge",
        memory_bytes=2048 * GIB,
        accelerators=8,
        accelerator="H200",
        accelerator_bytes=141 * GB,
        network_bytes_per_s=3200 * GBIT_PER_S,
        source=f"{EC2}; {TORCHX} (2048 GiB, 16 EFA cards); dstackai/dstack pull 4110",
        assumed=(
            "3200 Gbit/s are 16 cards of 200; read in listings, not in EC2's page",
        ),
    ),
    Preset(
        name="tpu-v4",
        product="ct4p-hightpu-4t",
        memory_bytes=407 * GB,
        accelerators=4,
        accelerator="TPU v4",
        accelerator_bytes=32 * GIB,
        network_bytes_per_s=TPU_V4.host_bytes_per_s,
        host_bytes_per_s=TPU_V4.chips_bytes_per_s,
        source="https://docs.cloud.google.com/tpu/docs/v4 (32 GiB a chip, 4096 chips a "
        "pod); Gemini 1.0 report, arXiv 2312.11805, section 3 (4x4x4 cubes, around "
        "10 s); https://glennklockwood.com/garden/processors/TPUv4 (16 hosts of 4 "
        "chips a cube, 64 cubes, 400 Gbit/s a link, PCIe 3.0 x16)",
        assumed=(
            "407 GB of host memory: remembered from GKE's table, not found again",
            "100 Gbit/s a host: not published; 25 Gbit/s a chip as TPU v5e's",
            "4 standby cubes: the report says a small number, and 60 cubes make 3x4x5",
            "63 GB/s between a host and its chips: the line rate of four PCIe 3.0 x16",
        ),
        pods=TPU_V4,
    ),
    Preset(
        name="tpu-v5e",
        product="ct5lp-hightpu-8t",
        memory_bytes=384 * GB,
        accelerators=8,
        accelerator="TPU v5e",
        accelerator_bytes=16 * GB,
        network_bytes_per_s=TPU_V5E.host_bytes_per_s,
        host_bytes_per_s=TPU_V5E.chips_bytes_per_s,
        source="https://docs.cloud.google.com/tpu/docs/v5e (16 GB a chip, 8 chips and "
        "2 x 100 Gbit/s a host, 256 chips a pod in a 2D torus, 4 ports of 400 GB/s "
        "both ways in all, 384 GB a virtual machine of the host's 512 GiB)",
        assumed=(
            "126 GB/s between a host and its chips: eight PCIe 3.0 x16, as TPU v4's",
            "no optical switch inside a pod: a pod is one cube that is wired once",
        ),
        pods=TPU_V5E,
    ),
)
PRESETS: Mapping[str, Preset] = {one.name: one for one in _ALL}
TABLE_1: tuple[str, ...] = tuple(one.name for one in _ALL if one.table_1)
"""The rows of GEMINI's Table 1, in its order."""


def preset(name: str) -> Preset:
    """The machine of this name or product (`p4d`, `p4d.24xlarge`), in any case.

    Raises: ConfigError with all the names."""
    wanted = name.strip().lower()
    for one in PRESETS.values():
        if wanted in (one.name, one.product.lower()):
            return one
    raise ConfigError(
        f"machine is {name!r}; use one of {', '.join(PRESETS)}, or give its memory and "
        "speeds"
    )
