"""Stand-ins for parts of the system: engines, services, models, grammars."""
