"""Deployment files: an image, KubeRay, `ray up`. The code is in `embed_ops/engine/`."""
