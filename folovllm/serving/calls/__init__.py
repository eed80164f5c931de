"""Calls from their arrival on: `arrivals`, and `interceptor`, which wraps each of them."""
