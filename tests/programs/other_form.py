"""The daemon as a version with another form of what is handed on: `python other_form.py run …`."""

from __future__ import annotations

import sys

from dataplane.takeover import form

form.form = 2

from dataplane.cli import main  # noqa: E402 (the form is read when the others are imported)

sys.exit(main())
