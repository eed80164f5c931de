"""What a draw depends on besides its logits: the fields that samplers read, as 32-bit words.

First the three numbers of its random number, see `seeding`, then sampling parameters, whose
defaults in SamplingParams change nothing. A new filter is listed here, applied by
`runner.sampling.filters` on CPUs and by `kernels.gpu.sampling.sampler` on GPUs.
"""

from collections.abc import Mapping

import numpy as np

DRAW_PARAMS: Mapping[str, type[np.number]] = {
    "temperature": np.float32,
    "top_k": np.int32,
    "top_p": np.float32,
    "min_p": np.float32,
}
"""The fields of SamplingParams, and the type of each on a GPU."""
DRAW_WORDS = ("seed_low", "seed_high", "index", "position", *DRAW_PARAMS)
"""All fields; position is the number of tokens before the drawn one."""
