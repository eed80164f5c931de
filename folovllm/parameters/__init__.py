"""What SamplingParams is made of: its larger values, and the checks of all of them."""
