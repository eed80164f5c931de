"""Every state that a request can be in x every fault that can meet it there."""
