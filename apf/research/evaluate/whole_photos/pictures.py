"""Sheets to look at: each photo's main face at 1:1, clean and protected, and all of them on one contact sheet."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from apf.faces.alignment import Box, UInt8
from apf.research.evaluate.whole_photos.boxes import box_side

#: How much around a face is shown, in sides of its box, and the gap between two pictures, in pixels.
AROUND, GAP = 0.6, 8
#: Height of a pair on the contact sheet, and pairs in a row.
CONTACT_PX, ACROSS = 220, 4


@dataclass
class Pictures:
    """Sheets in a folder of their own."""

    folder: Path
    _small: list[Image.Image] = field(default_factory=list)

    def add(self, name: str, clean: UInt8, protected: UInt8, box: Box) -> None:
        """Save the sheet of one photo: clean on the left, protected on the right, no pixel resampled."""
        margin = AROUND * box_side(box)
        height, width = clean.shape[:2]
        x1, y1 = max(0, round(box[0] - margin)), max(0, round(box[1] - margin))
        x2, y2 = min(width, round(box[2] + margin)), min(height, round(box[3] + margin))
        gap = np.full((y2 - y1, GAP, 3), 255, np.uint8)
        sheet = Image.fromarray(np.hstack([clean[y1:y2, x1:x2], gap, protected[y1:y2, x1:x2]]))
        self.folder.mkdir(parents=True, exist_ok=True)
        sheet.save(self.folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.png")
        self._small.append(sheet.resize((max(1, round(sheet.width * CONTACT_PX / sheet.height)), CONTACT_PX)))

    def finish(self) -> None:
        """Save the contact sheet."""
        rows = [self._small[i : i + ACROSS] for i in range(0, len(self._small), ACROSS)]
        if not rows:
            return
        width = max(sum(one.width + GAP for one in row) for row in rows)
        sheet = Image.new("RGB", (width, (CONTACT_PX + GAP) * len(rows)), "white")
        for y, row in enumerate(rows):
            x = 0
            for one in row:
                sheet.paste(one, (x, y * (CONTACT_PX + GAP)))
                x += one.width + GAP
        sheet.save(self.folder / "contact.png")
