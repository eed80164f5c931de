"""Whether a server serves, for whoever asks in gRPC's own way."""
