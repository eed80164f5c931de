"""One part at a time: the sampler, grammar masks, speculation, the parts of a step."""
