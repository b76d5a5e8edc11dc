"""Real peers for the tests: an OpenSSH server behind TLS, the embedded Vers, a network that can fail. No test stands here."""
