"""Generated pictures: seeded scenes of a few objects, with a label, masks and captions that are true.

Two families of shapes: "base" to pretrain on, "new" whose shapes never occur in it.
"""

from vitrine.data.scenes.captions import Caption, Mention
from vitrine.data.scenes.dataset import ScenePicture, SceneSource, SceneStream, SceneWindow, open_scenes
from vitrine.data.scenes.export import write_scenes
from vitrine.data.scenes.scene import Scene, SceneObject
from vitrine.data.scenes.shapes import BASE, FAMILIES, NEW, Family

__all__ = [
    "BASE",
    "FAMILIES",
    "NEW",
    "Caption",
    "Family",
    "Mention",
    "Scene",
    "SceneObject",
    "ScenePicture",
    "SceneSource",
    "SceneStream",
    "SceneWindow",
    "open_scenes",
    "write_scenes",
]
