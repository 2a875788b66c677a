"""Signed distance functions of the eight products and the podium.

Every function takes points `[n, 3]` (y up, metres-like units, the product's foot at y = 0, about 1.6 high) and returns
distances `[n]`, negative inside. The primitives are Inigo Quilez' well-known ones, written for batches of points; where a
formula only bounds the distance it is scaled down so that marching never steps through a surface.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

Points = Tensor  # [n, 3]
Distances = Tensor  # [n]


class Part(IntEnum):
    """What a surface belongs to; the composite pass gives each its look."""

    BODY = 0  # takes the named colour and material
    ACCENT = 1  # cap, ribbon, inside of the mug: fixed rules
    FOOT = 2  # lamp foot
    DIAMOND = 3
    PODIUM = 4


@dataclass(frozen=True)
class Shape:
    """A product: its parts as (which, distance function), and a sphere around all of them."""

    parts: tuple[tuple[Part, Callable[[Points], Distances]], ...]
    centre_y: float
    radius: float

    def distance(self, p: Points) -> Distances:
        distances = [function(p) for _, function in self.parts]
        return distances[0] if len(distances) == 1 else torch.stack(distances).amin(0)

    def part(self, p: Points) -> Tensor:
        """The part nearest to each point, `[n]` int64."""
        nearest = torch.stack([function(p) for _, function in self.parts]).argmin(0)
        return torch.tensor([int(part) for part, _ in self.parts], device=p.device)[nearest]


# ---------------------------------------------------------------------------------------------- primitives


def at(p: Points, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Points:
    """The points as seen from (x, y, z)."""
    return p - torch.tensor((x, y, z), dtype=p.dtype, device=p.device)


def norm2(a: Tensor, b: Tensor) -> Tensor:
    return torch.sqrt(a * a + b * b)


def sphere(p: Points, radius: float) -> Distances:
    return p.norm(dim=-1) - radius


def box(p: Points, half: tuple[float, float, float], rounding: float) -> Distances:
    q = p.abs() - torch.tensor(half, dtype=p.dtype, device=p.device) + rounding
    return q.clamp(min=0).norm(dim=-1) + q.amax(-1).clamp(max=0) - rounding


def cylinder(p: Points, radius: float, half_height: float, rounding: float = 0.0) -> Distances:
    """Upright."""
    return capped(norm2(p[:, 0], p[:, 2]) - radius, p[:, 1].abs() - half_height, rounding)


def capped(side: Tensor, top: Tensor, rounding: float) -> Distances:
    """Joins two perpendicular half-space distances to the distance of their common inside."""
    side, top = side + rounding, top + rounding
    outside = norm2(side.clamp(min=0), top.clamp(min=0))
    return outside + torch.maximum(side, top).clamp(max=0) - rounding


def cone(p: Points, low: float, high: float, half_height: float, rounding: float) -> Distances:
    """Upright and truncated, `low` and `high` being the radii at its ends."""
    slope = (high - low) / (2 * half_height)
    radius = low + slope * (p[:, 1] + half_height).clamp(0, 2 * half_height)
    side = (norm2(p[:, 0], p[:, 2]) - radius) / (1 + slope * slope) ** 0.5
    return capped(side, p[:, 1].abs() - half_height, rounding)


def torus_upright(p: Points, major: float, minor: float) -> Distances:
    """A torus standing in the xy plane."""
    return norm2(norm2(p[:, 0], p[:, 1]) - major, p[:, 2]) - minor


def ellipsoid(p: Points, radii: tuple[float, float, float]) -> Distances:
    r = torch.tensor(radii, dtype=p.dtype, device=p.device)
    k0, k1 = (p / r).norm(dim=-1), (p / (r * r)).norm(dim=-1)
    return k0 * (k0 - 1) / k1.clamp(min=1e-6)


def smooth_union(a: Distances, b: Distances, radius: float) -> Distances:
    h = (0.5 + 0.5 * (b - a) / radius).clamp(0, 1)
    return b + (a - b) * h - radius * h * (1 - h)


def turned(p: Points, profile: tuple[tuple[float, float], ...], thickness: float) -> Distances:
    """A hollow body of revolution through (height, radius) knots, open at the top.

    Between knots the radius is interpolated with a cosine, so the outline has no kinks; the result is scaled down because
    a height field's distance overestimates where the outline is steep.
    """
    y, axis_distance = p[:, 1], norm2(p[:, 0], p[:, 2])
    radius = torch.full_like(y, profile[0][1])
    for (y0, r0), (y1, r1) in itertools.pairwise(profile):
        share = ((y - y0) / (y1 - y0)).clamp(0, 1)
        radius = torch.where(y > y0, r0 + (r1 - r0) * (0.5 - 0.5 * torch.cos(torch.pi * share)), radius)
    bottom, top = profile[0][0], profile[-1][0]
    outer = capped(0.75 * (axis_distance - radius), (y - (bottom + top) / 2).abs() - (top - bottom) / 2, 0.02)
    inner = torch.maximum(0.75 * (axis_distance - radius + thickness), bottom + thickness - y)
    return torch.maximum(outer, -inner)


# ------------------------------------------------------------------------------------------------ products


def mug_wall(p: Points) -> Distances:
    """Body with its hollow, and the handle joined on."""
    outside = cylinder(at(p, y=0.60), 0.56, 0.60, 0.05)
    hollow = cylinder(at(p, y=0.76), 0.48, 0.70, 0.03)
    handle = torch.maximum(torus_upright(at(p, x=0.58, y=0.60), 0.31, 0.085), 0.52 - norm2(p[:, 0], p[:, 2]))
    return smooth_union(torch.maximum(outside, -hollow), handle, 0.05)


def mug_inside(p: Points) -> Distances:
    """A thin lining, so that the inside is a part of its own."""
    lining = cylinder(at(p, y=0.75), 0.485, 0.675, 0.03)
    hollow = cylinder(at(p, y=0.80), 0.470, 0.700, 0.03)
    return torch.maximum(torch.maximum(lining, -hollow), p[:, 1] - 1.17)


def bottle_body(p: Points) -> Distances:
    body = cylinder(at(p, y=0.52), 0.44, 0.52, 0.09)
    shoulder = cone(at(p, y=1.10), 0.36, 0.15, 0.09, 0.02)
    neck = cylinder(at(p, y=1.25), 0.13, 0.10, 0.01)
    return smooth_union(smooth_union(body, shoulder, 0.06), neck, 0.03)


def diamond(p: Points) -> Distances:
    """Two cones on one girdle: a flat crown above, a pointed pavilion below."""
    axis_distance = norm2(p[:, 0], p[:, 2])
    crown = torch.maximum(0.71 * (axis_distance + p[:, 1] - 0.30), p[:, 1] - 0.11)
    pavilion = 0.71 * (axis_distance - p[:, 1] - 0.30)
    return torch.maximum(crown, pavilion)


def bow(p: Points) -> Distances:
    def loop(x: float, turn: float) -> Distances:
        q = at(p, x=x, y=1.30)
        rolled = torch.stack((q[:, 0] * turn + q[:, 1] * 0.35, q[:, 1] - q[:, 0] * turn * 0.35, q[:, 2]), -1)
        band = norm2(norm2(rolled[:, 0] * 0.8, rolled[:, 1]) - 0.17, rolled[:, 2].clamp(-0.09, 0.09) - rolled[:, 2])
        return 0.75 * (band - 0.035)

    knot = ellipsoid(at(p, y=1.20), (0.12, 0.10, 0.12))
    return torch.minimum(torch.minimum(loop(0.24, 1.0), loop(-0.24, -1.0)), knot)


def ribbon(p: Points) -> Distances:
    """Two bands around box and lid, a little proud of them."""
    lid = torch.minimum(box(at(p, y=0.95), (0.11, 0.165, 0.695), 0.01), box(at(p, y=0.95), (0.695, 0.165, 0.11), 0.01))
    sides = torch.minimum(box(at(p, y=0.42), (0.11, 0.42, 0.635), 0.01), box(at(p, y=0.42), (0.635, 0.42, 0.11), 0.01))
    return torch.minimum(lid, sides)


def lamp_foot(p: Points) -> Distances:
    disc = cylinder(at(p, y=0.06), 0.36, 0.06, 0.04)
    bulge = ellipsoid(at(p, y=0.36), (0.15, 0.20, 0.15))
    stem = cylinder(at(p, y=0.55), 0.045, 0.45, 0.01)
    return smooth_union(smooth_union(disc, bulge, 0.06), stem, 0.05)


def lamp_shade(p: Points) -> Distances:
    outside = cone(at(p, y=1.22), 0.66, 0.38, 0.38, 0.02)
    inside = cone(at(p, y=1.22), 0.62, 0.34, 0.42, 0.0)
    return torch.maximum(outside, -inside)


VASE_PROFILE = ((0.0, 0.30), (0.62, 0.52), (1.22, 0.25), (1.58, 0.37))

SHAPES: dict[str, Shape] = {
    "ball": Shape(((Part.BODY, lambda p: sphere(at(p, y=0.75), 0.75)),), 0.75, 0.78),
    "cube": Shape(((Part.BODY, lambda p: box(at(p, y=0.63), (0.63, 0.63, 0.63), 0.06)),), 0.63, 1.10),
    "bottle": Shape(
        ((Part.BODY, bottle_body), (Part.ACCENT, lambda p: cylinder(at(p, y=1.47), 0.19, 0.17, 0.03))), 0.82, 0.97
    ),
    "mug": Shape(((Part.BODY, mug_wall), (Part.ACCENT, mug_inside)), 0.62, 1.08),
    "vase": Shape(((Part.BODY, lambda p: turned(p, VASE_PROFILE, 0.05)),), 0.79, 0.95),
    "ring": Shape(
        (
            (Part.BODY, lambda p: torus_upright(at(p, y=0.66), 0.56, 0.10)),
            (Part.DIAMOND, lambda p: diamond(at(p, y=1.42))),
        ),
        0.78,
        0.86,
    ),
    "gift box": Shape(
        (
            (
                Part.BODY,
                lambda p: torch.minimum(
                    box(at(p, y=0.40), (0.62, 0.40, 0.62), 0.03), box(at(p, y=0.95), (0.68, 0.15, 0.68), 0.03)
                ),
            ),
            (Part.ACCENT, lambda p: torch.minimum(ribbon(p), bow(p))),
        ),
        0.72,
        1.22,
    ),
    "lamp": Shape(((Part.BODY, lamp_shade), (Part.FOOT, lamp_foot)), 0.82, 1.06),
}

PODIUM_HEIGHT = 0.34
PODIUM_RADIUS = 1.08


def podium(p: Points) -> Distances:
    """Its top is at y = 0, where the product stands; the floor is `PODIUM_HEIGHT` lower."""
    return cylinder(at(p, y=-PODIUM_HEIGHT / 2), PODIUM_RADIUS, PODIUM_HEIGHT / 2, 0.03)
