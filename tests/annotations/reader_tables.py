"""Tables of readers who see the same truth, for tests of agreement and ceiling."""

import numpy as np
import pandas as pd

from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.labels import NO_FINDING


def readings(*rows):
    """Make rows of image, class, reader, box (None: no finding)."""
    return pd.DataFrame(
        [(image, name, reader, *(box or [np.nan] * 4)) for image, name, reader, box in rows],
        columns=["image_id", "class_name", "reader", *XYXY_COLUMNS],
    )


def drawn_readings(seed, *, images=30, readers=("A", "B", "C", "D"), classes=("Edema", "ILD"), miss=0.25):
    """Make a table in which three readers of each image jitter, miss and invent boxes."""
    rng = np.random.default_rng(seed)
    rows = []
    for image in range(images):
        low = rng.uniform(0, 600, (rng.integers(0, 4), 2))
        truth = np.concatenate([low, low + rng.uniform(60, 300, low.shape)], axis=1)
        names = rng.choice(classes, len(truth))
        for reader in rng.choice(readers, 3, replace=False):
            seen = rng.random(len(truth)) > miss
            boxes = truth + rng.normal(0, 8, truth.shape)
            own = [(f"i{image:02}", n, reader, tuple(b)) for b, n in zip(boxes[seen], names[seen], strict=True)]
            if rng.random() < 0.1:
                own.append((f"i{image:02}", classes[0], reader, (700.0, 700.0, 800.0, 800.0 + image)))
            rows += own or [(f"i{image:02}", NO_FINDING, reader, None)]
    return readings(*rows)
