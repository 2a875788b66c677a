"""The composite pass: geometry buffers and factors give a picture.

Shading happens in linear light: a key light with its shadow, a hemisphere of fill light, a rim light from behind, and an
analytic environment of two soft boxes for what shines. A soft shoulder, the sRGB curve and a light vignette finish it.
Looks are plausible, not physical: what counts is that every factor can be told from the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from factors import Factors
from geometry import FLOOR, OBJECT, Buffers, View
from shapes import Part

# sRGB, 0 to 1.
COLOUR_RGB: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.08, 0.12),
    "orange": (0.95, 0.40, 0.06),
    "yellow": (0.95, 0.77, 0.10),
    "green": (0.10, 0.58, 0.24),
    "teal": (0.06, 0.58, 0.57),
    "blue": (0.10, 0.27, 0.84),
    "purple": (0.52, 0.19, 0.80),
    "pink": (0.95, 0.45, 0.68),
    "white": (0.93, 0.93, 0.92),
    "black": (0.055, 0.055, 0.065),
}
BACKDROP_RGB: dict[str, tuple[float, float, float]] = {
    "white": (0.93, 0.93, 0.93),
    "gray": (0.56, 0.56, 0.58),
    "cream": (0.91, 0.84, 0.69),
    "pink": (0.94, 0.66, 0.75),
    "orange": (0.91, 0.53, 0.20),
    "yellow": (0.94, 0.78, 0.32),
    "green": (0.42, 0.68, 0.43),
    "teal": (0.18, 0.58, 0.57),
    "blue": (0.34, 0.54, 0.84),
    "purple": (0.52, 0.37, 0.73),
}
NEON_RING = {"height": 1.02, "radius": 0.98, "depth": -1.15}


@dataclass(frozen=True)
class Light:
    """What shines in a setting, linear light."""

    key: Tensor  # [3] colour times strength of the key light
    above: Tensor  # [3] fill light from above
    below: Tensor  # [3] fill light from below
    rim: Tensor  # [3] light from behind
    softbox: float  # strength of the reflected soft boxes


def linear(srgb: tuple[float, float, float], device: torch.device) -> Tensor:
    value = torch.tensor(srgb, device=device)
    return torch.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def srgb(value: Tensor) -> Tensor:
    value = value.clamp(min=0)
    return torch.where(value <= 0.0031308, value * 12.92, 1.055 * value.clamp(min=1e-8) ** (1 / 2.4) - 0.055)


def smoothstep(low: float, high: float, value: Tensor) -> Tensor:
    share = ((value - low) / (high - low)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def composite(view: View, buffers: Buffers, factors: Factors) -> Tensor:
    """The picture, sRGB, `[n, 3]` in 0 to 1."""
    device = buffers.position.device
    backdrop = linear(BACKDROP_RGB[factors.backdrop], device)
    light = lights(view.setting, backdrop)
    colour = surroundings(view, buffers, backdrop, light)
    on_object = (buffers.kind == OBJECT).nonzero().squeeze(-1)
    if len(on_object):
        colour[on_object] = shade(view, buffers, factors, backdrop, light, on_object)
    return finish(colour)


def lights(setting: str, backdrop: Tensor) -> Light:
    """The lamps of a setting; sunset and neon have a colour of their own."""
    tone = lambda *rgb: torch.tensor(rgb, device=backdrop.device)  # noqa: E731
    match setting:
        case "sunset":
            return Light(
                key=1.55 * tone(1.0, 0.72, 0.46),
                above=0.34 * tone(1.0, 0.72, 0.74) + 0.10 * backdrop,
                below=0.16 * tone(1.0, 0.66, 0.55) + 0.14 * backdrop,
                rim=0.9 * tone(1.0, 0.62, 0.38),
                softbox=2.6,
            )
        case "neon":
            glow = neon_colour(backdrop)
            return Light(
                key=0.62 * tone(1.0, 0.98, 1.0),
                above=0.07 * tone(1, 1, 1) + 0.13 * glow,
                below=0.04 * tone(1, 1, 1) + 0.10 * glow,
                rim=1.6 * glow,
                softbox=1.8,
            )
        case _:
            return Light(
                key=1.22 * tone(1.0, 0.98, 0.95),
                above=0.46 * tone(0.97, 0.99, 1.0) + 0.10 * backdrop,
                below=0.14 * tone(1, 1, 1) + 0.26 * backdrop,
                rim=0.32 * tone(1, 1, 1),
                softbox=4.2,
            )


def neon_colour(backdrop: Tensor) -> Tensor:
    """The backdrop's hue as a lamp: more saturated and at full strength (white stays white)."""
    pure = backdrop - 0.85 * backdrop.min()
    return pure / pure.max().clamp(min=1e-3)


# ------------------------------------------------------------------------------------ floor, wall and sky


def surroundings(view: View, buffers: Buffers, backdrop: Tensor, light: Light) -> Tensor:
    match view.setting:
        case "sunset":
            return sunset(view, buffers, backdrop, light)
        case "neon":
            return neon(buffers, backdrop)
        case _:
            return studio(buffers, backdrop)


def studio(buffers: Buffers, backdrop: Tensor) -> Tensor:
    """A paper roll: floor and wall of one colour, brightest behind the product."""
    direction = buffers.direction
    spot = torch.exp(-((direction[:, :1] / 0.26) ** 2) - ((direction[:, 1:2] + 0.10) / 0.30) ** 2)
    wall = backdrop * (0.80 + 0.26 * spot)
    shade = 0.42 + 0.58 * buffers.key[:, None]
    floor = backdrop * (0.34 + 0.70 * shade) * (0.45 + 0.55 * buffers.sky[:, None])
    reach = (buffers.position[:, [0, 2]] - torch.tensor((0.0, -1.5), device=wall.device)).norm(dim=-1, keepdim=True)
    into_wall = smoothstep(1.8, 6.5, reach)
    blended = floor * (1 - into_wall) + wall * into_wall
    return torch.where((buffers.kind == FLOOR)[:, None], blended, wall)


def sunset(view: View, buffers: Buffers, backdrop: Tensor, light: Light) -> Tensor:
    """A horizon with the sun beside the product; the backdrop's colour in the floor and the upper sky."""
    direction, device = buffers.direction, backdrop.device
    glow, rose = torch.tensor((1.0, 0.46, 0.16), device=device), torch.tensor((0.86, 0.27, 0.27), device=device)
    height = direction[:, 1:2]
    sky = glow + (rose - glow) * smoothstep(0.0, 0.07, height)
    upper = 0.5 * rose + 0.5 * backdrop
    sky = sky + (upper - sky) * smoothstep(0.04, 0.22, height)
    side = -1.0 if view.light_azimuth < 0 else 1.0
    # Measured from the middle of the view, so that the sun never hides behind the product.
    towards = torch.tensor((side * 0.112 - 0.98 * view.azimuth, 0.046), device=device)
    away = (direction[:, :2] / -direction[:, 2:] - towards).norm(dim=-1, keepdim=True)
    disc = 1 - smoothstep(0.046, 0.052, away)
    sky = sky + torch.tensor((0.55, 0.36, 0.16), device=device) * torch.exp(-away / 0.07)
    sky = sky * (1 - disc) + torch.tensor((2.6, 2.1, 1.4), device=device) * disc
    shade = 0.30 + 0.70 * buffers.key[:, None]
    ground = (
        (0.62 * backdrop + 0.10 * rose) * (light.key * 0.42 * shade + light.above) * (0.5 + 0.5 * buffers.sky[:, None])
    )
    far = smoothstep(6.0, 34.0, buffers.position.norm(dim=-1, keepdim=True))
    ground = ground * (1 - 0.55 * far) + 0.55 * far * glow * 0.62
    return torch.where((buffers.kind == FLOOR)[:, None], ground, sky)


def neon(buffers: Buffers, backdrop: Tensor) -> Tensor:
    """A dark room with a glowing ring behind the product, mirrored in the floor."""
    glow = neon_colour(backdrop)
    mirrored = buffers.direction * torch.tensor((1.0, -1.0, 1.0), device=glow.device)
    seen = ring_glow(buffers.origin.expand_as(buffers.direction), buffers.direction, glow)
    reflected = ring_glow(buffers.position, mirrored, glow)
    pool = torch.exp(-((buffers.position[:, [0, 2]] / 1.7) ** 2).sum(-1, keepdim=True))
    shade = (0.35 + 0.65 * buffers.key[:, None]) * buffers.sky[:, None]
    wall = (0.010 + 0.034 * glow) * (1 + torch.exp(-((buffers.direction[:, :1] / 0.25) ** 2)))
    floor = wall + 0.34 * reflected + (0.05 + 0.16 * glow) * pool * shade
    into_wall = smoothstep(-0.6, -3.0, buffers.position[:, 2:])
    floor = floor + (wall - floor) * into_wall
    return torch.where((buffers.kind == FLOOR)[:, None], floor, wall) + seen


def ring_glow(origin: Tensor, direction: Tensor, glow: Tensor) -> Tensor:
    """Light of the ring along a ray, from how closely it passes the tube in the ring's plane.

    None where the ray reaches the floor before that plane, or starts behind it.
    """
    t = (NEON_RING["depth"] - origin[:, 2:]) / direction[:, 2:].clamp(max=-1e-3)
    at = origin + t * direction
    free = (t > 0) & (at[:, 1:2] > 0)
    from_centre = torch.hypot(at[:, :1], at[:, 1:2] - NEON_RING["height"])
    away = (from_centre - NEON_RING["radius"]).abs()
    core = torch.exp(-((away / 0.035) ** 2))
    halo = 0.46 * torch.exp(-away / 0.10) + 0.10 * torch.exp(-away / 0.45)
    return torch.where(free, core * (0.75 + 1.1 * glow) + halo * glow, 0.0)


# ------------------------------------------------------------------------------------------------ product


def shade(view: View, buffers: Buffers, factors: Factors, backdrop: Tensor, light: Light, index: Tensor) -> Tensor:
    """Colours of the object pixels at `index`, linear light."""
    normal, direction = buffers.normal[index], buffers.direction[index]
    part, key, sky = buffers.part[index], buffers.key[index][:, None], buffers.sky[index][:, None]
    albedo, gloss, metal = surfaces(factors, part, backdrop)
    towards = torch.tensor(view.light, device=normal.device)
    lambert = dot(normal, towards).clamp(min=0) * key
    up = 0.5 + 0.5 * normal[:, 1:2]
    fill = (light.below + (light.above - light.below) * up) * sky
    facing = dot(normal, -direction).clamp(0, 1)
    back = smoothstep(0.45, 1.0, 1 - facing) * (0.35 - 0.65 * normal[:, 2:]).clamp(0, 1)
    diffuse = albedo * (light.key * 0.72 * lambert + fill)
    reflected = torch.nn.functional.normalize(direction - 2 * dot(direction, normal) * normal, dim=-1)
    mirror = environment(view, reflected, backdrop, light) * (0.35 + 0.65 * sky)
    fresnel = (1 - facing) ** 5
    shiny = diffuse * (1 - 0.5 * gloss * fresnel) + gloss * (0.055 + 0.60 * fresnel) * mirror
    # A trace of diffuse light keeps a metal's own colour readable where it mirrors something dark.
    metallic = (albedo + (1 - albedo) * 0.6 * fresnel) * mirror + 0.30 * diffuse
    colour = shiny + (metallic - shiny) * metal
    colour = colour + light.rim * back * (0.15 + 0.35 * albedo)
    if view.product == "lamp":
        lit = ((part == int(Part.BODY))[:, None]).float()
        strength = 0.55 if view.setting == "neon" else 0.28
        colour = colour + lit * strength * albedo * (1.2 - 0.5 * facing)
    return colour


def surfaces(factors: Factors, part: Tensor, backdrop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Albedo `[n, 3]`, gloss and metalness `[n, 1]` by part; accents follow fixed rules that no word names."""
    device = backdrop.device
    on_white = factors.colour == "white"
    accent = {
        "bottle": (0.10, 0.10, 0.11) if on_white else (0.92, 0.92, 0.90),
        "gift box": (0.86, 0.66, 0.24) if on_white else (0.94, 0.91, 0.82),
    }.get(factors.product, (0.94, 0.94, 0.92))
    body_gloss = {"matte": 0.0, "glossy": 1.0, "metallic": 1.0}[factors.material]
    looks: dict[Part, tuple[Tensor, float, float]] = {
        Part.BODY: (
            linear(COLOUR_RGB[factors.colour], device),
            body_gloss,
            1.0 if factors.material == "metallic" else 0.0,
        ),
        Part.ACCENT: (linear(accent, device), 0.4, 0.0),
        Part.FOOT: (linear((0.17, 0.13, 0.11), device), 0.7, 0.0),
        Part.DIAMOND: (linear((0.80, 0.88, 0.97), device), 1.0, 0.55),
        Part.PODIUM: (0.80 * linear((0.95, 0.95, 0.95), device) + 0.20 * backdrop, 0.15, 0.0),
    }
    table = torch.stack(
        [torch.cat((rgb, torch.tensor((gloss, metal), device=device))) for rgb, gloss, metal in looks.values()]
    )
    order = torch.tensor([list(looks).index(each) for each in Part], device=device)
    values = table[order[part]]
    return values[:, :3], values[:, 3:4], values[:, 4:5]


def environment(view: View, direction: Tensor, backdrop: Tensor, light: Light) -> Tensor:
    """What a mirror sees: floor, wall, a large soft box at the key light and a strip opposite."""
    height = direction[:, 1:2]
    low, high = 0.55 * light.below + 0.10 * backdrop, 0.75 * light.above + 0.25 * backdrop
    if view.setting == "neon":
        low, high = 0.35 * light.below, 0.6 * light.above
    room = low + (high - low) * smoothstep(-0.25, 0.35, height)
    towards = torch.tensor(view.light, device=direction.device)
    box = soft_box(direction, towards, 0.42, 0.55)
    strip = soft_box(direction, towards * torch.tensor((-1.3, 0.6, 0.7), device=direction.device), 0.16, 0.80)
    tint = light.key / light.key.max()
    colour = room + light.softbox * tint * (box + 0.35 * strip)
    if view.setting == "neon":
        behind = smoothstep(0.0, 0.8, -direction[:, 2:]) + smoothstep(0.75, 1.0, direction[:, :1].abs())
        colour = colour + 0.8 * neon_colour(backdrop) * behind
    return colour


def soft_box(direction: Tensor, towards: Tensor, width: float, height: float) -> Tensor:
    """A rectangle with blurred edges in the directions around `towards`."""
    towards = torch.nn.functional.normalize(towards, dim=0)
    right = torch.nn.functional.normalize(
        torch.linalg.cross(torch.tensor((0.0, 1.0, 0.0), device=towards.device), towards), dim=0
    )
    up = torch.linalg.cross(towards, right)
    ahead = direction @ towards
    u, v = direction @ right, direction @ up
    inside = (1 - smoothstep(width * 0.75, width, u.abs())) * (1 - smoothstep(height * 0.75, height, v.abs()))
    return (inside * (ahead > 0))[:, None]


def finish(colour: Tensor) -> Tensor:
    """Soft shoulder above 0.6, sRGB, vignette."""
    over = colour - 0.6
    colour = torch.where(over > 0, 0.6 + 0.4 * (1 - torch.exp(-over / 0.4)), colour)
    size = round(colour.shape[0] ** 0.5)
    steps = torch.linspace(-1, 1, size, device=colour.device)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    vignette = 1 - 0.07 * smoothstep(0.6, 1.45, torch.hypot(x, y)).reshape(-1, 1)
    return (srgb(colour) * vignette).clamp(0, 1)
