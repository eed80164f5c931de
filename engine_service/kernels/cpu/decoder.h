// The arguments of a step through a decoder's layers.

#pragma once

#include "attention.h"
#include "linear.h"

extern "C" {

struct Layer {
    const LinearWeight* qkv_proj;
    const LinearWeight* o_proj;
    const LinearWeight* gate_up_proj;  // gated
    const LinearWeight* down_proj;
    const bf16* input_norm;
    const bf16* q_norm;  // or null
    const bf16* k_norm;
    const bf16* post_attention_norm;
    bf16* keys;  // of the cache
    bf16* values;
};

struct Decoder {
    const bf16* embedding;  // [vocabulary, hidden_size], or null
    const Layer* layers;
    int64_t num_layers;
    int64_t hidden_size;
    AttentionShape shape;
    float eps;
};

// Nanoseconds that a call took.
struct Elapsed {
    int64_t linears;
    int64_t attention;
};

// The tokens of a step.
struct Tokens {
    const int64_t* token_ids;    // rows of the embedding to start from, or null: `hidden` has them
    const int64_t* output_rows;  // rows whose hidden states are needed, ascending
    int64_t num_output_rows;     // negative: all
    bf16* hidden;                // [tokens of the step, hidden_size]
};

Elapsed decode(Context* context, const Decoder* decoder, const AttentionStep* step,
               const Tokens* tokens);

}  // extern "C"
