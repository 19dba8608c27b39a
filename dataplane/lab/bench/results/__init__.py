"""What was measured, as ratios, verdicts, tables, pages and files; and what differs from an older result."""
