"""The tasks the executor may run: one package or module each."""
