"""This process: its time, its log, its tasks, its turns of the event loop, and the files that are its alone."""
