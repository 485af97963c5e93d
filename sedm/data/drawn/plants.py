"""Plants: leaves and flowers painted over a scene.

Lengths are in units of half the image's side, x to the right, y down. A petal or leaf is drawn in its own
coordinates: u from the flower's centre along the petal, v across, t = u / length; its half width is
width · t^a (1 − t)^b, scaled to a maximum of `width`, with a < 1 for broad bases and b < 1 for round tips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sedm.data.drawn.canvas import CANVAS, grid, rotate
from sedm.data.drawn.species import FlowerStyle


@dataclass(frozen=True)
class Pose:
    """Where a flower stands in a photograph, and how it is turned."""

    x: float  # of its centre
    y: float
    scale: float  # length of its petals
    turn: float  # rad, of its first petal
    tilt: float  # 0.62…1, how much of its width is left where it is tilted away
    tilt_to: float  # rad, the direction in which it is


@dataclass(frozen=True)
class View:
    """The part of a photograph around a flower, painted in place, and where its pixels lie for the flower."""

    scene: np.ndarray  # (h, w, 3), 0 to 1
    flower: np.ndarray  # (h, w), share of each pixel that flowers cover, 0 to 1
    along: np.ndarray  # (h, w), coordinates of the flower, in lengths of its petals
    off: np.ndarray  # (h, w)
    radius: np.ndarray  # (h, w), the same in polar coordinates
    angle: np.ndarray  # (h, w), rad
    light: float  # rad, where the light comes from


def paint_flower(scene, flower, pose: Pose, style: FlowerStyle, rng: np.random.Generator) -> None:
    """Paint one flower over the scene and add its cover, 0 to 1, to `flower`, in place."""
    window = _window(pose.x, pose.y, 1.5 * pose.scale)
    scene, flower = scene[window], flower[window]
    grid_y, grid_x = (axis[window] for axis in grid())
    x, y = (grid_x - pose.x) / pose.scale, (grid_y - pose.y) / pose.scale
    along, off = rotate(x, y, pose.tilt_to)
    along = along / pose.tilt
    light = style.light - pose.tilt_to
    view = View(scene, flower, along, off, radius=np.hypot(along, off), angle=np.arctan2(off, along), light=light)
    shadow = np.exp(-np.clip(np.hypot(x - 0.1, y - 0.15) - 0.55, 0, None) * 5)[..., None]
    scene *= 1 - (0.08 if style.habitat == "sky" else 0.4) * shadow  # nothing near the sky to fall on
    length = 1.0
    for layer in range(style.layers):
        _paint_layer(view, pose.turn + layer * np.pi / style.petals, length, style, rng)
        length *= style.inner
    _paint_centre(view, style, rng)


def _paint_layer(view: View, turn: float, length: float, style: FlowerStyle, rng: np.random.Generator) -> None:
    """Paint one whorl of petals, each overlapping the one before it, in place."""
    n = style.petals
    step = 2 * np.pi / n
    lengths = length * (1 + 0.05 * rng.standard_normal(n)).astype(np.float32)
    turns = (0.09 * step * rng.standard_normal(n)).astype(np.float32)
    tones = (1 + 0.04 * rng.standard_normal(n)).astype(np.float32)
    peak = style.base / (style.base + style.tip)
    width = length * min(style.fullness * math.tan(min(step / 2, 0.75)) * max(peak, 0.45), 0.46)
    near = view.radius < 1.3 * length
    radius, angle, below = view.radius[near], view.angle[near], view.scene[near]
    nearest = np.round((angle - turn) / step)
    lit = np.ones_like(radius)  # what the upper neighbours leave of the light
    upper = np.full((6, len(radius)), -9, np.float32)  # what `petal` holds below, of the petal that is seen
    widest = np.full_like(radius, -9)
    for offset in (1, 0, -1):
        k = ((nearest + offset) % n).astype(int)
        centre = turn + (nearest + offset) * step + turns[k]
        u, v = radius * np.cos(angle - centre), radius * np.sin(angle - centre)
        v = v * (1 + style.ruffle * np.sin(22 / length * u + k.astype(np.float32)))
        reach = lengths[k] * (1 - max(style.notch, 0) * np.exp(-((v / (0.35 * width)) ** 2)))
        inside, t, across = _outline(u, v, reach, width, style.base, style.tip)
        azimuth = centre - view.light
        shade = lit * tones[k] * (1 + style.contrast * np.cos(azimuth)) * (0.72 + 0.28 * np.minimum(t * 2.2, 1))
        shade = shade * (1 - style.curvature * across**2 * (0.6 + 0.4 * np.sign(across * np.sin(azimuth))))
        widest = np.maximum(widest, inside)
        petal = np.stack([inside, t, across, u / length, v / length, shade])
        # The upper petal stays where it covers; elsewhere whichever is nearer.
        upper = np.where((upper[0] > 0) | (upper[0] > inside), upper, petal)
        lit = lit * (1 - 0.45 * np.exp(np.minimum(inside, 0) / (0.05 * length)))
    inside, t, across, u, v, shade = upper
    cover = np.clip(widest * CANVAS / 4 * style.scale, 0, 1)[:, None]
    colour = _petal_colour(t, across, inside / width, u, v, style) * shade[:, None]
    shadow = 0.3 * np.exp(-np.clip(radius - 0.8 * length, 0, None) / 0.12)[:, None]
    view.scene[near] = cover * colour + (1 - cover) * (1 - shadow) * below
    view.flower[near] = np.maximum(view.flower[near], cover[:, 0])


def _petal_colour(t, across, inside, u, v, style: FlowerStyle) -> np.ndarray:
    """Mix the pigment of petals, float32 (n, 3): gradient base to tip, veins, star, edge, spots and eye."""
    blend = np.clip(t * 1.25 - 0.1, 0, 1)[..., None]
    colour = style.base_colour + blend * (style.tip_colour - style.base_colour)
    amounts = []
    if style.veins > 0:
        lines = np.cos(np.pi * across * style.vein_count) * (1 - 0.5 * t)
        amounts.append((style.veins * np.clip(lines, 0, 1), style.mark_colour))
    if style.star > 0:
        amounts.append((style.star * np.exp(-((across / 0.28) ** 2)) * (1 - t**2), style.mark_colour))
    if style.edge > 0:
        rim = np.exp(-np.clip(inside, 0, None) / 0.16)
        amounts.append((style.edge * rim * np.clip(3 * t - 1, 0, 1), style.edge_colour))
    if style.spots > 0:
        dots = np.cos(38 * u + 9 * v) * np.cos(46 * v)
        amounts.append((style.spots * np.clip(4 * dots - 2.2, 0, 1) * np.clip(1.6 - 2.2 * t, 0, 1), style.mark_colour))
    if style.eye > 0:
        amounts.append((style.eye * np.clip(1.5 - 4 * t, 0, 1), style.eye_colour))
    for amount, pigment in amounts:
        colour = colour + amount[..., None].astype(np.float32) * (pigment - colour)
    return colour


def _paint_centre(view: View, style: FlowerStyle, rng: np.random.Generator) -> None:
    """Paint the disc, the stamens or the throat of a flower, in place."""
    scene, flower, radius, angle = view.scene, view.flower, view.radius, view.angle
    size = style.centre * (1.15 if style.petals > 8 else 0.75)
    colour = style.centre_colour
    if style.centre_kind == "throat":
        amount = np.clip(1.4 - radius / (0.55 * size), 0, 1)[..., None]
        scene += amount * (0.55 * colour - scene)
        np.maximum(flower, amount[..., 0], out=flower)
        return
    if style.centre_kind == "stamens":
        n = 7 + style.petals
        step = 2 * np.pi / n
        cell = np.round(angle / step)
        reach = (size * rng.uniform(0.9, 1.35, n)).astype(np.float32)[(cell % n).astype(int)]
        turn = angle - cell * step
        dots = np.hypot(radius * np.cos(turn) - reach, radius * np.sin(turn)) / 0.042
        threads = np.clip(1.6 - np.abs(radius * np.sin(turn)) / 0.011, 0, 1) * (radius < reach)
        for amount, pigment in ((0.7 * threads, 0.5 + 0.5 * colour), (np.clip(3 - 2.4 * dots, 0, 1), colour)):
            scene += amount[..., None] * (pigment - scene)
        size = 0.35 * size
    ball = np.clip(radius / size, 0, 1)
    # Two families of spirals, 8 and 13 arms, draw the seeds of a composite flower.
    seeds = np.cos(8 * angle + 17 * np.sqrt(ball)) * np.cos(13 * angle - 21 * np.sqrt(ball))
    tilt = (view.along * math.cos(view.light) + view.off * math.sin(view.light)) / size
    shade = 0.85 + 0.30 * tilt + 0.22 * seeds * ball - 0.35 * (1 - ball) ** 2 - 0.25 * ball**6
    cover = np.clip((size - radius) * CANVAS / 4 * style.scale, 0, 1)
    scene *= 1 - 0.35 * (1 - cover[..., None]) * np.exp(-np.clip(radius - size, 0, None) / 0.06)[..., None]
    scene += cover[..., None] * (colour * np.clip(shade, 0.1, 1.4)[..., None] - scene)
    np.maximum(flower, cover, out=flower)


def paint_leaf(scene, flower, x: float, y: float, turn: float, length: float, style: FlowerStyle, rng) -> None:
    """Paint a leaf over the scene and take what it covers out of the flower, in place."""
    window = _window(x + 0.5 * length * math.cos(turn), y + 0.5 * length * math.sin(turn), 0.75 * length)
    scene, flower = scene[window], flower[window]
    grid_y, grid_x = (axis[window] for axis in grid())
    u, v = rotate(grid_x - x, grid_y - y, turn)
    v = v + rng.normal(0, 0.25) * u * (u - length)
    inside, t, across = _outline(u, v, length, style.leaf_width * length, 0.6, 0.8)
    cover = np.clip(inside * CANVAS / 4, 0, 1)[..., None]
    ribs = 0.10 * np.cos(60 * (t - 0.35 * np.abs(across))) + 0.35 * np.exp(-((v / 0.012) ** 2))
    shade = rng.uniform(0.75, 1.15) * (0.9 + ribs + 0.18 * np.sign(across) * np.minimum(np.abs(across), 0.6))
    scene *= 1 - 0.35 * (1 - cover) * np.exp(np.minimum(inside, 0) / 0.06)[..., None]
    scene += cover * (style.leaf_colour * shade[..., None] - scene)
    flower *= 1 - cover[..., 0]


def _outline(u, v, length, width, base: float, tip: float):
    """Measure the distance inside a petal's edge (negative outside), t along it, and v over the half width."""
    t = np.clip(u / length, 1e-3, 1 - 1e-3)
    peak = base / (base + tip)
    half = width * (t / peak) ** base * ((1 - t) / (1 - peak)) ** tip
    inside = np.minimum(half - np.abs(v), np.minimum(u, length - u) * 2)
    return inside, t, v / np.maximum(half, 1e-3)


def _window(x: float, y: float, reach: float) -> tuple[slice, slice]:
    """Find the rows and columns of the canvas within `reach` of (x, y)."""
    edges = [int(np.clip((c + d + 1) * CANVAS / 2, 0, CANVAS)) for c in (y, x) for d in (-reach, reach)]
    return slice(*edges[:2]), slice(*edges[2:])
