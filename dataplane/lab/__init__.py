"""Virtual clusters in private namespaces; demo, tests and bench stand on this one piece."""
