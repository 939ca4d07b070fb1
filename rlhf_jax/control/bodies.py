"""Where the parts of a body stand, from the angles of its joints, so that it can be drawn from an observation alone."""

from __future__ import annotations

import numpy as np

# Lengths in gym's and brax's hopper.xml: half the torso, thigh, leg, and the foot behind and before the ankle.
_TORSO, _THIGH, _LEG, _HEEL, _TOE = 0.2, 0.45, 0.5, 0.13, 0.26


def hopper_points(observation: np.ndarray) -> np.ndarray:
    """Find the ends of the hopper's parts.

    Args:
        observation: [11], brax's: the torso's height, its angle, the angles of thigh, leg and foot, and velocities.

    Returns:
        [6, 2], top, hip, knee, ankle, heel and toe: metres before the torso's middle, and above the floor.

    Example:
        >>> standing = np.zeros(11)
        >>> standing[0] = 1.25
        >>> hopper_points(standing).round(2).tolist()
        [[0.0, 1.45], [0.0, 1.05], [0.0, 0.6], [0.0, 0.1], [-0.13, 0.1], [0.26, 0.1]]

    Source: Todorov, Erez & Tassa 2012, MuJoCo; the model is Erez, Tassa & Todorov 2011's, as gym has it.
    """
    height, torso, *joints = (float(x) for x in observation[:5])
    # Joints turn the other way than the torso, and each turns all that hangs from it.
    thigh, leg, foot = torso - np.cumsum(joints)
    middle = np.array([0.0, height])
    top, hip = middle + _TORSO * _up(torso), middle - _TORSO * _up(torso)
    knee = hip - _THIGH * _up(thigh)
    ankle = knee - _LEG * _up(leg)
    forward = np.array([np.cos(foot), -np.sin(foot)])
    return np.stack([top, hip, knee, ankle, ankle - _HEEL * forward, ankle + _TOE * forward])


def _up(angle: float) -> np.ndarray:
    """Point along a part that leans forward by so much, radians: one long, forward and up."""
    return np.array([np.sin(angle), np.cos(angle)])
