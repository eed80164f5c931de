"""The services as processes of this machine: their command lines, their start, their end."""
