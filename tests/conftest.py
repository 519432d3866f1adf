"""What has to be decided before the first test loads torch."""

import os

# As `tspbench.cli.main` does: threads that wait by spinning slow each other down many times over on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
