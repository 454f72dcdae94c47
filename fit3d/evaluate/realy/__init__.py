"""REALY's protocol for reconstructed faces, after Chai et al., "REALY: Rethinking the Evaluation of 3D Face
Reconstruction", ECCV 2022, and the code that its authors publish (github.com/czh-98/REALY).

A scan comes as four regions (nose, mouth, forehead, cheek) and 85 keypoints. For each region by itself:

1. `align.global_alignment`: the predicted mesh is scaled, turned and shifted onto the scan by seven keypoints.
2. `align.regional_alignment`: it is turned and shifted onto the region by closest points and keypoints.
3. `nonrigid.deformed_onto`: the region is bent onto the mesh, so that points find the ones that they correspond to.
4. The error is the mean distance from the region's points, as they were scanned, to the points of the mesh that are
   nearest to the bent ones.

`protocol` puts the steps together, `benchmark` finds and reads the files, `work` goes through them.
"""
