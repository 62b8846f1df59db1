"""Generated pictures: seeded scenes of a few objects, with a label, masks and captions that are true.

Two families of shapes: "base" to pretrain on, "new" whose shapes never occur in it.
"""

from vitrine.data.scenes.captions import Caption, Mention
from vitrine.data.scenes.reference import open_scenes
from vitrine.data.scenes.scene import Scene, SceneObject
from vitrine.data.scenes.shapes import BASE, FAMILIES, NEW, Family
from vitrine.data.scenes.stream import ScenePicture, SceneSource, SceneStream, SceneWindow
from vitrine.data.scenes.writing import write_scenes

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
