"""Where a hopper's parts are: beside MuJoCo's kinematics where it is installed, and lengths that no posture changes."""

import numpy as np
import pytest

from rlhf_jax.control.bodies import hopper_points
from rlhf_jax.control.clips import clip


def posture(seed):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.uniform(0.8, 1.4, 1), rng.uniform(-0.6, 0.6, 4), rng.normal(size=6)])


def test_no_posture_changes_a_length():
    for seed in range(5):
        top, hip, knee, ankle, heel, toe = hopper_points(posture(seed))
        lengths = [np.linalg.norm(a - b) for a, b in ((top, hip), (hip, knee), (knee, ankle), (heel, toe))]
        np.testing.assert_allclose(lengths, [0.4, 0.45, 0.5, 0.39], rtol=1e-12)


def test_parts_are_where_mujoco_has_them():
    mujoco = pytest.importorskip("mujoco", reason="mujoco (extra `brax`) is not installed")
    file = pytest.importorskip("etils.epath").resource_path("brax") / "envs/assets/hopper.xml"
    model = mujoco.MjModel.from_xml_string(file.read_text())
    for seed in range(5):
        o, moved = posture(seed), mujoco.MjData(model)
        moved.qpos[:] = [0, o[0] - 1.25, *o[1:5]]
        mujoco.mj_kinematics(model, moved)
        ends = []
        for part in ("torso_geom", "thigh_geom", "leg_geom", "foot_geom"):
            number = model.geom(part).id
            middle, along = moved.geom_xpos[number], moved.geom_xmat[number].reshape(3, 3)[:, 2]
            ends += [(middle + side * along * model.geom_size[number][1])[[0, 2]] for side in (-1, 1)]
        top, hip, knee, ankle, heel, toe = hopper_points(o)
        np.testing.assert_allclose(ends[:6], [hip, top, knee, hip, ankle, knee], atol=1e-6)
        np.testing.assert_allclose(sorted(map(tuple, ends[6:])), sorted(map(tuple, (heel, toe))), atol=1e-6)


def test_a_hopper_stands_on_the_floor_and_is_marked_where_it_fell():
    standing = np.zeros(11)
    standing[0] = 1.25
    fallen = standing.copy()
    fallen[1] = 0.5
    frames = clip("hopper", np.stack([standing, fallen]))["frames"]
    assert frames[0][4] == ["line", 137.0, 155.0, 176.0, 155.0, 11.0, "soft"]  # the foot, 0.1 above the floor at 165
    assert [frame[1][-1] for frame in frames] == ["main", "wrong"]
