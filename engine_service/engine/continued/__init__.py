"""Requests that go on with output from elsewhere."""
