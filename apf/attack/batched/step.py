"""One step of a batch of faces by torch: `apf.attack.gradient_steps` and `apf.attack.jury` for many at once.

Nothing here waits for the device, and every tensor's shape follows from the batch's: so a CUDA graph can hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from apf.attack.batched import sampling
from apf.attack.batched.bounds import Bounds
from apf.attack.batched.jpeg import Jpeg
from apf.attack.batched.packing import FIELD, NOISE
from apf.attack.batched.seer import Seer, identity, unit
from apf.attack.batched.views import STEP, TAPS, VIEW
from apf.attack.bound import LUMA
from apf.attack.gradient_steps import DECOY, DRAWN, MOMENTUM, SOFTNESS, TINY
from apf.attack.jury import QUALITY
from apf.attack.outline import WARP_FEATHER, face_mask
from apf.attack.perturbation import KNOTS, spread
from apf.faces.geometry import CROP

#: Half of `cv2.GaussianBlur`'s kernel, which is seven pixels wide for `DRAWN`.
DRAWN_REACH = 3
#: Steps of a pixel in which OpenCV adds up a place, and in which it samples there.
FIXED, PLACES = 1024, 32


@dataclass(eq=False)
class Canvases:
    """What stays as it is while a batch takes its steps: B faces, canvases of S by S pixels."""

    #: (B, 3, S, S) in levels; beyond a canvas's own size its last row and column repeat, here and in all that follows.
    levels: Tensor
    #: (B, 1, S, S): how far each pixel may move, in levels; the same, but 0 beside the crop's square; and whether a
    #: pixel lies in the square.
    whole_bound: Tensor
    bound: Tensor
    inside: Tensor
    #: (B, S, S, 2): each pixel's place in the noise, in the field's shifts, and among the levels, in pixels.
    in_noise: Tensor
    in_template: Tensor
    own: Tensor
    #: (B, 112, 112): reduces an axis to the noise's pixels; (B, 1, 112, 112): the noise's mask, and its bound.
    reducing: Tensor
    mask: Tensor
    allowed: Tensor
    #: (B, 2, 3, 112, 112): how the face changes along x and y.
    slopes: Tensor
    #: (B, D) each: the guides' own directions, those away from the face, and the jurors' own.
    directions: list[Tensor]
    away: list[Tensor]
    known: list[Tensor]


class Steps(nn.Module):
    """All that a step needs and no face changes: masks, kernels, and the recognisers."""

    def __init__(self, guides: Sequence[Seer], jury: Sequence[Seer], *, warps: bool = True) -> None:
        super().__init__()
        self.guides, self.jury, self.warps, self.jpeg = list(guides), list(jury), warps, Jpeg()
        masks = torch.zeros(CROP + 1, 1, CROP, CROP)
        for side in range(1, CROP + 1):
            masks[side, 0, :side, :side] = torch.from_numpy(face_mask(side))
        away = torch.arange(DRAWN_REACH + 1)
        drawn = torch.exp(-(away**2) / (2 * DRAWN**2)).double()
        taps = tuple((drawn / (2 * drawn.sum() - drawn[0])).tolist())
        constants = {
            "masks": masks,
            "fade": torch.from_numpy(face_mask(CROP, WARP_FEATHER)),
            "knots": torch.from_numpy(spread()),
            "luma": torch.from_numpy(LUMA).view(3, 1, 1),
            "neighbours": sampling.neighbours(TAPS, reflected=False),
            "drawn": sampling.blur(taps, reflected=True),
        }
        for name, value in constants.items():
            self.register_buffer(name, value.clone())

    masks: Tensor
    fade: Tensor
    knots: Tensor
    luma: Tensor
    neighbours: Tensor
    drawn: Tensor

    def begin(self, given: dict[str, Tensor]) -> Canvases:
        """Return what stays the same through all steps, of `apf.attack.batched.packing.Packed` on the device."""
        numbers, side = given["numbers"], given["pixels"].shape[1]
        height, width, noise_side = numbers[:, 0], numbers[:, 1], numbers[:, 2]
        pixel = torch.arange(side, device=numbers.device, dtype=torch.float32)
        own = torch.stack(torch.meshgrid(pixel, pixel, indexing="xy"), -1)[None].expand(len(numbers), -1, -1, -1)
        own = sampling.within(own, width, height)
        flat = (own[..., 1] * side + own[..., 0]).long().flatten(1)
        pixels = given["pixels"].flatten(1, 2).permute(0, 2, 1).float()
        levels = pixels.gather(2, flat[:, None].expand(-1, 3, -1)).view(-1, 3, side, side)
        one = numbers[:, 4:10].view(-1, 2, 3, 1, 1)
        x, y = own[:, None, ..., 0], own[:, None, ..., 1]
        at = (one[:, :, 0] * x + one[:, :, 1] * y + one[:, :, 2]).permute(0, 2, 3, 1)
        # OpenCV samples pictures of two channels, such as shifts, at places that are whole in fixed point.
        across, down = one[:, :, 0] * x, one[:, :, 1] * y + one[:, :, 2]
        fixed = (FIXED * across).round() + (FIXED * down).round()
        shifted_at = (torch.floor(fixed * (PLACES / FIXED) + 0.5) / PLACES).permute(0, 2, 3, 1)
        scale = torch.hypot(numbers[:, 4], numbers[:, 7])
        bound = Bounds(levels, scale, height, width).map(at, numbers[:, 14], numbers[:, 15])
        bound = bound.flatten(1).gather(1, flat).view(-1, 1, side, side)
        inside = ((at - (CROP - 1) / 2).abs().amax(-1) < CROP / 2)[:, None]
        in_noise = (at + 0.5) * (noise_side / CROP).view(-1, 1, 1, 1) - 0.5
        plain = given["views"][:, 0]
        face = sampling.cut_out(levels, plain, whole=True) / 255
        slopes = torch.stack(torch.gradient(face, dim=(3, 2)), 1)
        zero = torch.zeros_like(noise_side)
        reducing = sampling.area_weights(zero, CROP / noise_side, CROP, CROP)
        mask = self.masks[noise_side.long()]
        allowed = sampling.cut_out(bound, plain) * self.masks[CROP]
        crop = (sampling.cut_out(levels, plain) / 255).clamp(0, 1)
        directions = [identity(guide, crop) for guide in self.guides]
        away = directions
        if len(self.guides) > 1:
            away = [unit(own_ - DECOY * given[f"decoy{i}"]) for i, own_ in enumerate(directions)]
        return Canvases(
            levels,
            bound,
            bound * inside,
            inside,
            sampling.normalised(sampling.within(in_noise, noise_side, noise_side), CROP, CROP),
            sampling.normalised(shifted_at, CROP, CROP),
            sampling.normalised(own, side, side),
            reducing,
            mask,
            reducing[:, None] @ allowed @ reducing[:, None].transpose(2, 3),
            slopes,
            directions,
            away,
            [identity(juror, crop) for juror in self.jury],
        )

    def draw(self, canvases: Canvases, numbers: Tensor, state: Tensor) -> Tensor:
        """Return the canvases with the change on each, in levels: (B, 3, S, S)."""
        noise = state[:, :NOISE].view(-1, 3, CROP, CROP)
        grey = (self.luma * noise).sum(1, keepdim=True)
        noise = (grey + numbers[:, 3].view(-1, 1, 1, 1) * (noise - grey)).clamp(-1, 1) * canvases.mask
        found, side = canvases.levels, canvases.levels.shape[-1]
        if self.warps:
            shift = self._field(state[:, NOISE : NOISE + FIELD])
            length = (shift * shift).sum(1, keepdim=True).sqrt()
            shift = (shift / length.clamp_min(1) * self.fade).flatten(2)
            turned = (numbers[:, 10:14].view(-1, 2, 2) @ shift).view(-1, 2, CROP, CROP)
            moved = sampling.on_grid(turned, canvases.in_template).permute(0, 2, 3, 1) * (2 / (side - 1))
            found = sampling.on_grid(found, canvases.own + moved, "bicubic").clamp(0, 255)
            found = torch.where(canvases.inside, found, canvases.levels)
        return (found + sampling.on_grid(noise, canvases.in_noise) * canvases.bound).clamp(0, 255)

    def coded(self, images: Tensor, numbers: Tensor, row: Tensor) -> Tensor:
        """Return canvases through JPEG, those whose step has one."""
        quality = row[:, VIEW + 6]
        found = self.jpeg(images, quality.long(), numbers[:, 0].long(), numbers[:, 1].long())
        return torch.where(quality.view(-1, 1, 1, 1) > 0, found, images)

    def see(self, images: Tensor, row: Tensor) -> Tensor:
        """Return what a step's view shows of canvases: (B, 3, 112, 112) in [0, 1]."""
        crop = (sampling.cut_out(images, row[:, :VIEW]) / 255).clamp(0, 1)
        return self._soft(crop, row)

    def gradient(self, crop: Tensor, away: Sequence[Tensor], row: Tensor) -> Tensor:
        """Return the likeness's gradient by the crop, each guide's at a mean size of one: (B, 3, 112, 112)."""
        total = torch.zeros_like(crop)
        for number, guide in enumerate(self.guides):
            with torch.enable_grad():
                seen = crop.detach().requires_grad_(True)
                cosine = (guide.climbed(seen) * away[number]).sum()
                (found,) = torch.autograd.grad(cosine, seen)
            size = found.abs().mean((1, 2, 3), keepdim=True).clamp_min(TINY)
            total = total + found / size * row[:, STEP + number].view(-1, 1, 1, 1)
        return total

    def back(self, gradient: Tensor, row: Tensor) -> Tensor:
        """Return a crop's gradient in the template, (B, 3, 112, 112)."""
        gradient = self._soft(gradient, row)
        found = sampling.sampled(gradient, sampling.places_of(row[:, VIEW : VIEW + 6], CROP, CROP))
        return self.drawn @ found @ self.drawn.T

    def update(self, canvases: Canvases, numbers: Tensor, state: Tensor, gradient: Tensor, row: Tensor) -> Tensor:
        """Return the state after a step along a gradient in the template."""
        reducing = canvases.reducing[:, None]
        noise = (reducing @ gradient @ reducing.transpose(2, 3)) * canvases.allowed
        share = numbers[:, 3].view(-1, 1, 1, 1)
        noise = share * noise + (1 - share) * self.luma * noise.sum(1, keepdim=True)
        rates, room = row[:, STEP - 3 : STEP - 1], row[:, STEP - 1 : STEP]
        half = NOISE + FIELD
        count = 3 * numbers[:, 2:3] ** 2
        taken, kept = _taken(
            state[:, :NOISE], state[:, half : half + NOISE], noise.flatten(1), rates[:, :1], room, count
        )
        warp, warped = state[:, NOISE:half], state[:, half + NOISE :]
        if self.warps:
            by_field = self._by_field(canvases, warp, gradient)
            warp, warped = _taken(warp, warped, by_field, rates[:, 1:], room, torch.full_like(count, FIELD))
        return torch.cat([taken, warp, kept, warped], 1)

    def judge(self, canvases: Canvases, numbers: Tensor, state: Tensor, views: Tensor) -> Tensor:
        """Return the largest likeness that jurors, or without any the guides, see in each face: (B,)."""
        quality = torch.full_like(numbers[:, 0], QUALITY, dtype=torch.long)
        image = self.jpeg(self.draw(canvases, numbers, state), quality, numbers[:, 0].long(), numbers[:, 1].long())
        seers, own = (self.jury, canvases.known) if self.jury else (self.guides, canvases.directions)
        found = []
        for number in range(views.shape[1]):
            crop = (sampling.cut_out(image, views[:, number]) / 255).clamp(0, 1)
            for seer, known in zip(seers, own, strict=True):
                found.append((identity(seer, crop) * known).sum(1) / max(seer.threshold, TINY))
        # A likeness that is no number stays none: it is no word that the face is safe.
        return torch.stack(found).amax(0)

    def _soft(self, crop: Tensor, row: Tensor) -> Tensor:
        taps = row[:, VIEW + 7 : VIEW + 7 + TAPS]
        soft = sampling.softening(taps, self.neighbours)[:, None]
        return soft @ crop @ soft.transpose(2, 3)

    def _field(self, field: Tensor) -> Tensor:
        """Return the shifts that a field's knots (B, 72) spread out, (B, 2, 112, 112)."""
        return self.knots @ field.view(-1, 2, KNOTS, KNOTS) @ self.knots.T

    def _by_field(self, canvases: Canvases, field: Tensor, gradient: Tensor) -> Tensor:
        by_shift = (gradient[:, None] * canvases.slopes).sum(2) * self.fade
        drawn = self._field(field)
        length = (drawn * drawn).sum(1, keepdim=True).sqrt().clamp_min(TINY)
        outwards = (by_shift * drawn).sum(1, keepdim=True) / length**2 * drawn
        by_drawn = torch.where(length > 1, (by_shift - outwards) / length, by_shift)
        return (self.knots.T @ by_drawn @ self.knots).flatten(1)


def _taken(
    latent: Tensor, momentum: Tensor, gradient: Tensor, rate: Tensor, room: Tensor, count: Tensor
) -> tuple[Tensor, Tensor]:
    """Return values and momentum after a step of one kind; `count` of a face's values are real, the others 0."""
    gradient = gradient / (gradient.abs().sum(1, keepdim=True) / count).clamp_min(TINY)
    momentum = MOMENTUM * momentum - gradient
    size = (momentum.abs().sum(1, keepdim=True) / count).clamp_min(TINY)
    latent = latent + rate * torch.tanh(SOFTNESS / size * momentum)
    return torch.maximum(torch.minimum(latent, room), -room), momentum
