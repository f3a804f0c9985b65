"""The coordinator's side of serving: finding and starting the server, and asking it about candidates and rewards."""
