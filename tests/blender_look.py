"""Run by Blender: import a GLB and an OBJ and tell what it finds in them.

`blender --background --python blender_look.py -- FILE.glb FILE.obj WIDTH HEIGHT FOLDER` writes to FOLDER `seen.json`
(of the GLB shape keys with their values by mesh, and the head's evaluated vertices with the jaw shut and open; of the
OBJ each object's corners of faces, vertex groups, whether it has UVs, its image's size, and all vertices) and
`photo_camera.png`, the GLB through its camera on a clear ground.
"""

import json
import sys
from pathlib import Path

import bpy
import numpy

# Blender 3.4's importer uses a name that numpy dropped in 1.24; Debian ships the two together.
numpy.bool = bool

path, obj_path, width, height, folder = sys.argv[sys.argv.index("--") + 1 :]
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=path)
scene = bpy.context.scene
meshes = {each.name: each for each in bpy.data.objects if each.type == "MESH"}


def keys(mesh):
    return mesh.data.shape_keys.key_blocks if mesh.data.shape_keys else []


def evaluated(mesh):
    bpy.context.view_layer.update()
    whole = mesh.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
    return [list(vertex.co) for vertex in whole.vertices]


seen = {
    "shape_keys": {name: {key.name: key.value for key in list(keys(mesh))[1:]} for name, mesh in meshes.items()},
}
(scene.camera,) = [each for each in bpy.data.objects if each.type == "CAMERA"]
scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = int(width), int(height), 100
scene.render.engine = "CYCLES"
scene.cycles.samples, scene.cycles.use_denoising, scene.cycles.max_bounces = 16, False, 0
scene.render.film_transparent = True
scene.render.image_settings.file_format, scene.render.image_settings.color_mode = "PNG", "RGBA"
scene.render.filepath = str(Path(folder) / "photo_camera.png")
bpy.ops.render.render(write_still=True)

head = meshes["head"]
for key in list(keys(head))[1:]:
    key.value = 0.0
seen["closed"] = evaluated(head)
head.data.shape_keys.key_blocks["jawOpen"].value = 1.0
seen["open"] = evaluated(head)

bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.wm.obj_import(filepath=obj_path, forward_axis="NEGATIVE_Z", up_axis="Y", import_vertex_groups=True)
seen["obj"] = {
    each.name: {
        "corners": [polygon.loop_total for polygon in each.data.polygons],
        "groups": [group.name for group in each.vertex_groups],
        "uvs": len(each.data.uv_layers),
        "vertices": [list(vertex.co) for vertex in each.data.vertices],
    }
    for each in bpy.data.objects
}
seen["image"] = [list(image.size) for image in bpy.data.images if image.source == "FILE"]
(Path(folder) / "seen.json").write_text(json.dumps(seen))
