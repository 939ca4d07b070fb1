"""The table of peaks: each kind of device finds its own row, and what is in no row is measured."""

import jax
import pytest

from rlhf_jax.parallel import limits


@pytest.mark.parametrize(
    ("kind", "flops", "bandwidth"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12, 3.35e12),
        ("NVIDIA H100 PCIe", 756e12, 2.0e12),
        ("NVIDIA H200", 989e12, 4.8e12),
        ("NVIDIA A100-SXM4-40GB", 312e12, 1.555e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 2.039e12),
        ("TPU v4", 275e12, 1.2e12),
        ("TPU v5 lite", 197e12, 0.819e12),  # v5e
        ("TPU v5", 459e12, 2.765e12),  # v5p
        ("TPU v5p", 459e12, 2.765e12),
        ("TPU v6 lite", 918e12, 1.638e12),  # v6e
    ],
)
def test_every_kind_finds_its_row(kind, flops, bandwidth):
    found = limits.known(kind)
    assert (found.flops, found.bandwidth) == (flops, bandwidth)
    assert found.source


def test_a_cpu_is_measured():
    assert limits.known("cpu") is None
    found = limits.measure(jax.devices()[0], size=128, repeats=2)
    assert found.flops > 1e8
    assert found.bandwidth > 1e8
    assert "measured" in found.source
