"""The geometry pass: camera rays against a signed distance field, giving buffers that can be coloured many times.

One `View` is a product in a setting with a camera and a key light. `trace` marches its rays and keeps, per pixel, what
the composite pass needs: what was hit, where, which way it faces, how much key light and how much sky reach it. Marching
is the expensive part, so each view is coloured several times (`composite.py`).

Only rays that meet the scene's bounding sphere are marched, the floor is analytic, and finished rays are dropped from
the batch every few steps.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from shapes import PODIUM_HEIGHT, PODIUM_RADIUS, SHAPES, Part, Shape, podium

MARCH_STEPS = 64
MARCH_SAFETY = 0.95
COMPACT_EVERY = 6
SURFACE = 2e-3
SHADOW_STEPS = 22
OCCLUSION_TAPS = (0.04, 0.12, 0.25, 0.45)

BACKGROUND, FLOOR, OBJECT = 0, 1, 2


@dataclass(frozen=True)
class View:
    """A product in a setting, seen by one camera under one key light."""

    product: str
    setting: str
    azimuth: float  # of the camera, radians
    elevation: float  # of the camera
    half_fov: float  # tangent of half the field of view
    light_azimuth: float
    light_elevation: float
    yaw: float  # of the product
    scale: float

    @staticmethod
    def random(product: str, setting: str, rng: random.Random) -> View:
        elevation = {"sunset": (0.06, 0.13), "neon": (0.09, 0.17)}.get(setting, (0.17, 0.34))
        wider = {"podium": 1.17, "sunset": 1.06, "neon": 1.06}.get(setting, 1.0)
        light_elevation = {"sunset": (0.38, 0.50)}.get(setting, (0.70, 0.95))
        yaw = {"ring": 0.45, "mug": 0.5}.get(product, math.pi)
        return View(
            product,
            setting,
            azimuth=rng.uniform(-0.18, 0.18),
            elevation=rng.uniform(*elevation),
            half_fov=rng.uniform(0.20, 0.222) * wider,
            light_azimuth=rng.choice((-1, 1)) * rng.uniform(0.50, 0.95),
            light_elevation=rng.uniform(*light_elevation),
            yaw=rng.uniform(-yaw, yaw),
            scale=rng.uniform(0.90, 1.04),
        )

    @property
    def light(self) -> tuple[float, float, float]:
        """Unit vector towards the key light; azimuth 0 is behind the camera."""
        flat = math.cos(self.light_elevation)
        return (
            flat * math.sin(self.light_azimuth),
            math.sin(self.light_elevation),
            flat * math.cos(self.light_azimuth),
        )


@dataclass(frozen=True)
class Buffers:
    """Per pixel, row by row from the top left: `n = size²` of each."""

    kind: Tensor  # [n] int64: BACKGROUND, FLOOR or OBJECT
    direction: Tensor  # [n, 3] of the camera ray
    origin: Tensor  # [3] the camera
    position: Tensor  # [n, 3]; zero for the background
    normal: Tensor  # [n, 3]
    part: Tensor  # [n] int64, `Part`; of objects only
    key: Tensor  # [n] 0 in full shadow to 1
    sky: Tensor  # [n] ambient occlusion, 0 to 1


class Scene:
    """The distance field of a view in world coordinates (floor at y = 0, camera on the side of +z)."""

    def __init__(self, view: View, device: torch.device) -> None:
        self.view = view
        self.shape: Shape = SHAPES[view.product]
        self.base = PODIUM_HEIGHT if view.setting == "podium" else 0.0
        cos, sin = math.cos(view.yaw), math.sin(view.yaw)
        self.turn = torch.tensor(((cos, 0, -sin), (0, 1, 0), (sin, 0, cos)), device=device)
        self.foot = torch.tensor((0.0, self.base, 0.0), device=device)
        # Smallest sphere around the product, or around product and podium.
        top = self.base + view.scale * (self.shape.centre_y + self.shape.radius)
        if self.base:
            middle = top / 2
            self.centre = torch.tensor((0.0, middle, 0.0), device=device)
            self.radius = math.hypot(middle, PODIUM_RADIUS) + 0.02
        else:
            self.centre = torch.tensor((0.0, view.scale * self.shape.centre_y, 0.0), device=device)
            self.radius = view.scale * self.shape.radius

    def local(self, p: Tensor) -> Tensor:
        return (p - self.foot) @ self.turn.T / self.view.scale

    def distance(self, p: Tensor) -> Tensor:
        product = self.shape.distance(self.local(p)) * self.view.scale
        return torch.minimum(product, podium(p - self.foot)) if self.base else product

    def part(self, p: Tensor) -> Tensor:
        parts = self.shape.part(self.local(p))
        if not self.base:
            return parts
        on_podium = podium(p - self.foot) < self.shape.distance(self.local(p)) * self.view.scale
        return torch.where(on_podium, int(Part.PODIUM), parts)

    def normal(self, p: Tensor) -> Tensor:
        """Central differences over the corners of a tetrahedron: four evaluations instead of six."""
        corners = torch.tensor(((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)), dtype=p.dtype, device=p.device)
        distances = self.distance((p[:, None] + 2e-3 * corners).reshape(-1, 3)).reshape(-1, 4)
        return torch.nn.functional.normalize(distances @ corners, dim=-1)

    def span(self, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whether rays meet the bounding sphere, and where they enter and leave it."""
        to_centre = self.centre - origin
        along = (to_centre * direction).sum(-1)
        discriminant = along * along - (to_centre * to_centre).sum(-1) + self.radius**2
        half = discriminant.clamp(min=0).sqrt()
        return (discriminant > 0) & (along + half > 0), (along - half).clamp(min=0), along + half


def trace(view: View, size: int, device: torch.device) -> Buffers:
    """Marches one ray per pixel of a `size` × `size` picture."""
    scene = Scene(view, device)
    origin, direction = camera(view, scene, size, device)
    count = direction.shape[0]
    floor_depth = torch.where(direction[:, 1] < -1e-4, -origin[1] / direction[:, 1].clamp(max=-1e-4), torch.inf)
    depth = march(scene, origin, direction)
    is_object = depth < floor_depth
    kind = torch.where(is_object, OBJECT, torch.where(floor_depth < 40.0, FLOOR, BACKGROUND))
    depth = torch.minimum(depth, floor_depth)
    position = torch.where(
        (kind != BACKGROUND)[:, None], origin + depth.nan_to_num(posinf=0.0)[:, None] * direction, 0.0
    )
    normal = torch.tensor((0.0, 1.0, 0.0), device=device).expand(count, 3).clone()
    part = torch.zeros(count, dtype=torch.int64, device=device)
    hit = is_object.nonzero().squeeze(-1)
    if len(hit):
        normal[hit] = scene.normal(position[hit])
        part[hit] = scene.part(position[hit])
    near_floor = (kind == FLOOR) & (position.norm(dim=-1) < 7.0)
    lit = (is_object | near_floor).nonzero().squeeze(-1)
    key, sky = torch.ones(count, device=device), torch.ones(count, device=device)
    key[lit] = soft_shadow(scene, position[lit], normal[lit])
    close = lit[(position[lit] - scene.centre).norm(dim=-1) < scene.radius + OCCLUSION_TAPS[-1]]
    sky[close] = occlusion(scene, position[close], normal[close])
    return Buffers(kind, direction, origin, position, normal, part, key, sky)


def camera(view: View, scene: Scene, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The camera's place, and a unit direction per pixel."""
    middle = scene.base * 0.62 + 0.72
    target = torch.tensor((0.0, middle, 0.0), device=device)
    flat = math.cos(view.elevation)
    back = torch.tensor(
        (flat * math.sin(view.azimuth), math.sin(view.elevation), flat * math.cos(view.azimuth)), device=device
    )
    origin = target + 6.2 * back
    right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor((0.0, 1.0, 0.0), device=device), back), dim=0)
    up = torch.linalg.cross(back, right)
    steps = (torch.arange(size, device=device) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(-steps, steps, indexing="ij")
    offset = view.half_fov * (x.reshape(-1, 1) * right + y.reshape(-1, 1) * up)
    return origin, torch.nn.functional.normalize(offset - back, dim=-1)


def march(scene: Scene, origin: Tensor, direction: Tensor) -> Tensor:
    """Sphere tracing (Hart 1996); infinite where nothing is hit."""
    depth = torch.full((direction.shape[0],), torch.inf, device=direction.device)
    meets, enter, leave = scene.span(origin, direction)
    alive = meets.nonzero().squeeze(-1)
    t, leave, rays = enter[alive], leave[alive], direction[alive]
    for step in range(MARCH_STEPS):
        distance = scene.distance(origin + t[:, None] * rays)
        # A ray that has arrived moves on by less than the surface's tolerance, so it may stay in the batch.
        t = t + MARCH_SAFETY * distance
        if step % COMPACT_EVERY == COMPACT_EVERY - 1 or step == MARCH_STEPS - 1:
            arrived = distance < SURFACE
            depth[alive[arrived]] = t[arrived]
            going = ~arrived & (t < leave)
            alive, t, leave, rays = alive[going], t[going], leave[going], rays[going]
            if not len(alive):
                break
    return depth


def soft_shadow(scene: Scene, position: Tensor, normal: Tensor) -> Tensor:
    """Penumbra from the nearest miss (Quilez): `min(k · distance / travelled)`, wide at a low sun."""
    light = torch.tensor(scene.view.light, device=position.device)
    sharpness = 9.0 if scene.view.setting == "sunset" else 6.0
    lit = torch.ones(position.shape[0], device=position.device)
    start = position + 0.02 * normal
    meets, enter, leave = scene.span(start, light.expand_as(start))
    index = (meets & ((normal @ light) > -0.1)).nonzero().squeeze(-1)
    start, t, leave = start[index], enter[index].clamp(min=0.03), leave[index]
    factor = torch.ones_like(t)
    for _ in range(SHADOW_STEPS):
        distance = scene.distance(start + t[:, None] * light)
        factor = torch.minimum(factor, torch.where(t < leave, (sharpness * distance / t), 1.0))
        t = t + distance.clamp(0.025, 0.30)
    factor = factor.clamp(0, 1)
    lit[index] = factor * factor * (3 - 2 * factor)
    return lit


def occlusion(scene: Scene, position: Tensor, normal: Tensor) -> Tensor:
    """How much of the sky is free, from the distance field along the normal (Evans 2006), the floor included."""
    blocked = torch.zeros(position.shape[0], device=position.device)
    for index, tap in enumerate(OCCLUSION_TAPS):
        p = position + tap * normal
        distance = torch.minimum(scene.distance(p), p[:, 1])
        blocked += 0.62**index * ((tap - distance) / tap).clamp(0, 1)
    return (1 - 0.38 * blocked).clamp(0.12, 1)
