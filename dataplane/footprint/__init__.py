"""What is ours on this host: the run directory, the locks, and the record by which all of it is removed."""
