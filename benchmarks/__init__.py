"""How fast and how large the library is: one script a question, one JSON line a figure.

``python -m benchmarks.run`` asks them all and prints a table; ``--fast`` is a miniature that shows that they run.
"""

import os

# Peers share an accelerator with us: memory is taken as it is needed. jax reads this when it first looks for devices.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
