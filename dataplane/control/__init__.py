"""What should be, what is, and how to get there: watch, desired, diff, apply, renew."""
