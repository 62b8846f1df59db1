"""How a model is used, as a card says it: commands and programs that run as they stand."""

from __future__ import annotations

import json
import shlex

from vitrine.report.card_facts import CardFacts
from vitrine.report.card_text import code

_TIMM = """\
import timm, torch
from PIL import Image, ImageOps

model = timm.create_model({folder}, pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
pixels = prepare(ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB"))[None]
with torch.inference_mode():
    probabilities = model(pixels).softmax(1)[0]
print(model.pretrained_cfg["label_names"][probabilities.argmax()], float(probabilities.max()))"""

_TRANSFORMERS = """\
from transformers import pipeline

classify = pipeline("image-classification", model={folder})
print(classify("picture.jpg"))"""

_PREPARE = """\

seen = {seen}
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")
width, height = picture.size
short, side = seen["resize_short_side"], seen["size"]
picture = picture.resize(
    (short, int(short * height / width)) if width <= height else (int(short * width / height), short),
    Image.Resampling.BICUBIC,
)
left, top = round((picture.width - side) / 2), round((picture.height - side) / 2)
pixels = np.array(picture.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
pixels = (pixels - np.float32(seen["mean"])) / np.float32(seen["std"])
pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # (pictures, colours, rows, columns)
"""

_ONNX = (
    """\
import json
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession({file})
said = session.get_modelmeta().custom_metadata_map
"""
    + _PREPARE.replace("{seen}", 'json.loads(said["input"])')
    + """
logits = session.run(["logits"], {{"pixels": pixels}})[0][0]
print(json.loads(said["labels"])[logits.argmax()])"""
)

_PT2 = (
    """\
import json
import numpy as np
import torch
from PIL import Image, ImageOps

extra = {{"vitrine.json": ""}}
model = torch.export.load({file}, extra_files=extra).module()
said = json.loads(extra["vitrine.json"])
"""
    + _PREPARE.replace("{seen}", 'said["input"]')
    + """
with torch.inference_mode():
    logits = model(torch.from_numpy(pixels))[0]
print(said["labels"][logits.argmax()])"""
)


def usage(facts: CardFacts) -> str:
    """Commands of vitrine, and a program with the library that the folder is for."""
    export = facts.export
    name = export.name if export else facts.name
    if not facts.classifies:
        return f"With the folder here as {_folder(name)}:\n\n" + _commands(
            f"vitrine caption {shlex.quote(name)} IMAGES -o captions"
        )
    folder = {"hf": f"./{name}", "timm": f"local-dir:{name}"}
    to = export.to if export else "timm"
    program = {"hf": _TRANSFORMERS, "timm": _TIMM, "onnx": _ONNX, "pt2": _PT2}[to]
    files = {"onnx": "model.onnx", "pt2": "model.pt2"}
    filled = program.format(folder=_literal(folder.get(to, "")), file=_literal(f"{name}/{files.get(to, '')}"))
    parts = [f"With the folder here as {_folder(name)}:", f"```python\n{filled}\n```"]
    if to in folder:
        quoted = shlex.quote(name)
        predict = f"vitrine predict {quoted} IMAGES -o predictions.csv"
        parts.append(_commands(predict, f"vitrine explain {quoted} IMAGES -o maps"))
    return "\n\n".join(parts)


def _folder(name: str) -> str:
    return code(f"{name}/")


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _commands(*lines: str) -> str:
    return "```\n" + "\n".join(" ".join(line.split()) for line in lines) + "\n```"
