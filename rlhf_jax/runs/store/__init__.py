"""Run folders in an object store: worked on in a local folder, and sent to ``s3://`` or ``gs://`` as they grow.

An object store has no rename, no append and no locks, so nothing works in it directly. ``objects`` moves single
objects, ``mirror`` moves folders so that each is there whole or not at all, ``checkpoints`` sends steps as they are
saved, and ``places`` knows which URL is which local folder.
"""

from rlhf_jax.runs.store.mirror import Mirror
from rlhf_jax.runs.store.objects import Objects, StoreError, url_of
from rlhf_jax.runs.store.places import local, mirror_of, open_run

__all__ = ["Mirror", "Objects", "StoreError", "local", "mirror_of", "open_run", "url_of"]
