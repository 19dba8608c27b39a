"""From one process to the next: what forwards is handed on, or found again, so that a restart loses nothing."""
