"""Public machines, as their makers and GEMINI's Table 1 give them."""

from __future__ import annotations

import pytest

from twinstep.errors import ConfigError
from twinstep.planner.presets import PRESETS, TABLE_1, preset


def test_table_1_is_reproduced() -> None:
    """GEMINI, Table 1: machine memory is larger than that of its GPUs."""
    printed = {
        "p3dn": (8, 32, 768),
        "p4d": (8, 40, 1152),
        "nd40rs_v2": (8, 32, 672),
        "nd96asr_v4": (8, 40, 900),
        "n1-8-v100": (8, 32, 624),
        "a2-highgpu-8g": (8, 40, 640),
        "dgx-a100": (8, 80, 2000),
    }
    assert tuple(printed) == TABLE_1
    for name, row in printed.items():
        machine = preset(name)
        assert machine.table_1 == row
        assert machine.accelerators_bytes == row[0] * row[1] * 1e9
        assert machine.memory_ratio > 2


def test_memory_is_the_tables_but_where_the_maker_says_otherwise() -> None:
    """Within GB and GiB of each other; the A2 machine has 85 GiB a GPU, not 80."""
    for name in TABLE_1:
        machine = preset(name)
        assert machine.table_1
        printed = machine.table_1[2]
        if name == "a2-highgpu-8g":
            assert machine.memory_bytes == 680 * 2**30
            assert any("640" in note for note in machine.assumed)
        else:
            assert machine.memory_bytes in (printed * 1e9, printed * 2**30)


def test_the_testbeds_networks() -> None:
    """GEMINI, section 7.1: 400 Gbit/s and 100 Gbit/s; section 5.2: copies to memory
    are as fast as the network."""
    assert preset("p4d").network_bytes_per_s == preset("p4d").host_bytes_per_s == 50e9
    assert preset("p3dn").network_bytes_per_s == 12.5e9


def test_h100_and_h200_hosts() -> None:
    for name, size in (("h100", 80e9), ("h200", 141e9)):
        machine = preset(name)
        assert (machine.accelerators, machine.accelerator_bytes) == (8, size)
        assert machine.memory_bytes == 2 * 2**40
        assert machine.network_bytes_per_s == 400e9


def test_tpu_v4_is_a_superpod_of_cubes() -> None:
    """Gemini 1.0 report, section 3: 4096 chips, 4x4x4 cubes, around 10 seconds."""
    machine = preset("tpu-v4")
    pods = machine.pods
    assert pods is not None
    assert (pods.chips, pods.cube, pods.rewire_s) == (4096, (4, 4, 4), 10)
    assert pods.chips_per_host == machine.accelerators == 4
    assert pods.cube_hosts == 16 and pods.standby_cubes == 4
    assert pods.host_bytes_per_s == machine.network_bytes_per_s


def test_tpu_v5e_is_a_torus_of_256_chips() -> None:
    """Google's page: 1.6 TB/s across the middle, 6.4 Tbit/s out of 32 hosts."""
    machine = preset("tpu-v5e")
    pods = machine.pods
    assert pods is not None
    assert pods.chips == 256 and pods.hosts == 32 and not pods.switched
    assert pods.torus.bisection_links * pods.link_bytes_per_s == 1.6e12
    assert pods.hosts * pods.host_bytes_per_s == 6.4e12 / 8


def test_every_number_has_a_source() -> None:
    for name, machine in PRESETS.items():
        assert name == machine.name and machine.source
        assert machine.network_bytes_per_s > 0 and machine.memory_bytes > 0
        assert (machine.pods is None) == (not name.startswith("tpu"))


def test_a_machine_is_found_by_name_or_product_in_any_case() -> None:
    assert preset("P4d.24xlarge") is preset("p4d")
    assert preset(" standard_ND40rs_v2 ") is preset("nd40rs_v2")


def test_an_unknown_machine_is_refused_with_the_names() -> None:
    with pytest.raises(
        ConfigError, match="machine is 'p9'; use one of p3dn, p4d,.*v5e"
    ):
        preset("p9")
