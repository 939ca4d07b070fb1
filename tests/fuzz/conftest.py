"""How many cases: 100 a reader with fixed seeds, or 10,000 with fresh ones (--hypothesis-profile=overnight)."""

import sys

from hypothesis import HealthCheck, settings

SETTINGS = {
    "database": None,  # nothing is kept between sessions; a case that fails becomes a test beside its reader
    "deadline": None,  # cases have limits of their own, of the processor's time
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    "print_blob": True,
}
settings.register_profile("ci", max_examples=100, derandomize=True, **SETTINGS)
settings.register_profile("overnight", max_examples=10_000, **SETTINGS)
if not any(word.startswith("--hypothesis-profile") for word in sys.argv):
    settings.load_profile("ci")
