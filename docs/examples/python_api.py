# %% [markdown]
# # From a radiograph to a report
#
# Read, predict, draw, evaluate, report. Run it as a script, or cell by cell in an editor that knows `# %%`:
#
#     python docs/examples/python_api.py work_dirs/retina_lungs data/lungs annotations/val_auto.json out

# %%
import json
import sys
from pathlib import Path

import cv2

from cxr_mmdet import Predictor, evaluate, read_radiograph

model, prepared, annotations, out = map(Path, sys.argv[1:])
out.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# A model is a checkpoint, a run's folder or an exported bundle.

# %%
predictor = Predictor.load(model)
print(predictor.model_id, predictor.class_names)

# %% [markdown]
# One radiograph: its pixels are grey levels of 8 bits, whatever the file holds; boxes are in pixels of the file.

# %%
coco = json.loads((prepared / annotations).read_text())
radiograph = read_radiograph(prepared / "images" / coco["images"][0]["file_name"])
findings = predictor.predict(radiograph)
print(f"{radiograph.size_hw[0]} x {radiograph.size_hw[1]} px, p_abnormal {findings.p_abnormal:.2f}")
for finding in findings:
    print(f"{finding.class_name}: {finding.score:.2f} at {[round(side, 1) for side in finding.box_xyxy]}")

# %% [markdown]
# The same image that `cxr predict --overlays` saves.

# %%
drawn = findings.draw(radiograph.pixels)  # (H, W, 3) uint8, red first
cv2.imwrite(str(out / "overlay.png"), drawn[:, :, ::-1])

# %% [markdown]
# A whole data set against its annotations. Entries of a COCO results file name their image and their category by id.
# Without a threshold, findings go down to the model's own, as average precision needs them.

# %%
category_of = {category["name"]: category["id"] for category in coco["categories"]}
category_ids = [category_of[name] for name in predictor.class_names]
detections = []
for image in coco["images"]:
    found = predictor.predict(prepared / "images" / image["file_name"])
    detections += found.to_coco(image["id"], category_ids, size_hw=(image["height"], image["width"]))

# %%
result = evaluate(prepared / annotations, detections, resamples=100)
print(result.summary())
result.write(out)  # metrics.json and report.html
