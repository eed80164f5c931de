"""What a sequence and its request hold beside tokens and KV; knows nothing of either."""
