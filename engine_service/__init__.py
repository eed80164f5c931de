"""The engine service: token ids in, token ids out. No tokenizer, no text.

    __main__ ▶ servicer ▶ rpc ▶ distributed ▶ engine ▶ runner ▶ { core , structured_output ,
                                                                  models ▶ layers ▶ kernels }

`config`, `device` and `seeding` lie under all of them.
"""
