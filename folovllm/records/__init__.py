"""Records: requests with what they gave, one JSON line each, to be run again; see docs/audit.md."""
