"""`python -m dataplane.cni`, and what the installed file `flannel` runs."""

from __future__ import annotations

from dataplane.cni.plugin import main

main()
