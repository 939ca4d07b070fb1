"""How fast and how large the library is: one script a question, one JSON line a figure.

``python -m benchmarks.run`` asks them all and prints a table; ``--fast`` is a miniature that shows that they run.
"""
