"""The services under load, with an engine that replays tokens where the engine is not the point."""
