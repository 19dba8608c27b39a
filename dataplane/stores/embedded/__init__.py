"""The embedded lease store: a SQLite file in a directory that all daemons of one machine share."""
