"""Luna's tests, one folder a package, named after behaviour."""
