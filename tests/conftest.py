"""What has to be decided before the first test loads torch or starts a process."""

import os
import signal

# As `tspbench.cli.main` does: threads that wait by spinning slow each other down many times over on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The test processes share the cores.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    threads = max(1, len(os.sched_getaffinity(0)) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
# A shell that starts the tests in the background lets them, and every process of theirs, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
