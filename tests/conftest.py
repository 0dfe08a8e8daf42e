"""What must be set before torch is imported: tests never reach for the network, and parallel workers do not fight for cores."""

import os

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run: a failure in CI is a failure here. No deadline: a loaded machine is not a bug.
settings.register_profile("anydraft", derandomize=True, deadline=None)
settings.load_profile("anydraft")
