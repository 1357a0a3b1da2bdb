"""The measurements: what the machine can do, what others do with it, and what we do, in one run."""
