"""Print the page of all settings, for `docs/configuration.md`."""

import sys

from scidaq.config.reference import reference

sys.stdout.write(reference())
