"""Names of pods: what the grid of a common name is, and what a wrong name is told."""

import importlib.util

import pytest

from rlhf_jax.parallel import topologies
from rlhf_jax.parallel.topologies import CHIPS, topology, topology_devices


@pytest.mark.parametrize(
    ("name", "grid", "chips"),
    [
        ("v5e-1", "v5e:1x1", 1),
        ("v5e-4", "v5e:2x2", 4),
        ("v5e-8", "v5e:2x4", 8),
        ("v5e-16", "v5e:4x4", 16),
        ("v5e-256", "v5e:16x16", 256),
        ("v6e-32", "v6e:4x8", 32),
        ("v6e-256", "v6e:16x16", 256),
        # These count cores, of which a chip has two.
        ("v5p-8", "v5p:2x2x1", 4),
        ("v5p-16", "v5p:2x2x2", 8),
        ("v5p-64", "v5p:2x4x4", 32),
        ("v5p-128", "v5p:4x4x4", 64),
        # A grid is taken as it is said.
        ("v5e:4x4", "v5e:4x4", 16),
        ("v5p:4x4x8", "v5p:4x4x8", 128),
    ],
)
def test_names_that_tools_for_tpus_have_in_common(name, grid, chips):
    found = topology(name)
    assert (found.name, found.chips) == (grid, chips)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v7x-16", "expected a chip with its grid or its number"),
        ("v5e", "such as v5e:4x4 or v5e-16"),
        ("v5e:4x4x4", "the grid of a v5e has 2 dimensions"),
        ("v5p:4x4", "the grid of a v5p has 3 dimensions"),
        ("v5e-12", "named by their chips a power of two"),
        ("v5e-1024", "up to 16x16, found 32x32"),
        ("v5e:3x5", "are 1, 2 or multiples of 4"),
        ("v5e:0x4", "are 1, 2 or multiples of 4"),
        ("v5p:32x4x4", "up to 16x16x24"),
        ("v5p-7", "cores, two a chip"),
        ("v5p-1", "cores, two a chip"),
    ],
)
def test_other_names_are_told_what_is_expected(name, said):
    with pytest.raises(ValueError, match=said):
        topology(name)


def test_without_libtpu_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[tpu\]'"):
        topology_devices(topology("v5e-4"))


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install '.[tpu]'")
@pytest.mark.parametrize("name", ["v5e-16", "v5p-16", "v6e-16"])
def test_libtpu_knows_the_chip_and_has_as_many_devices_as_the_name_says(name):
    wanted = topology(name)
    devices = topology_devices(wanted)
    assert len(devices) == wanted.chips
    assert wanted.chip == CHIPS[name[: name.index("-")]]
