"""Draws docs/digitworld.png: scenes of one and of two objects with their captions.

python docs/make_digitworld_picture.py
"""

import textwrap
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from clipib.data.digitworld.render import draw_pictures, write_captions
from clipib.data.digitworld.scene import sample_scenes

COLUMNS = 6
ROWS = {1: 2, 2: 2}  # of so many objects

figure, axes = plt.subplots(sum(ROWS.values()), COLUMNS, figsize=(9, 7.4), dpi=100)
row = 0
for objects, rows in ROWS.items():
    scenes = sample_scenes(np.arange(rows * COLUMNS), split="train", objects=objects)
    cells = axes[row : row + rows].ravel()
    for axis, picture, caption in zip(cells, draw_pictures(scenes), write_captions(scenes), strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(textwrap.fill(caption, 22), fontsize=8, y=-0.06, va="top")
        axis.axis("off")
    row += rows
figure.subplots_adjust(left=0.01, right=0.99, top=0.99, bottom=0.06, wspace=0.08, hspace=0.32)
figure.savefig(Path(__file__).with_name("digitworld.png"), pil_kwargs={"optimize": True})
