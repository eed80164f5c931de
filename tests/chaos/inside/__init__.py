"""What runs in a service's own process. The product has no hook for any of it."""
