// The arguments of attention; attention.cpp describes the layout of the cache.

#pragma once

#include "context.h"
#include "vectors.h"

extern "C" {

struct AttentionShape {
    int64_t num_heads;
    int64_t num_kv_heads;
    int64_t head_dim;
    int64_t block_size;
};

// What all layers of a step share.
struct AttentionStep {
    const int64_t* query_start_loc;  // [num_seqs + 1]
    const int64_t* seq_lens;         // [num_seqs], the step's tokens included
    const int64_t* block_tables;     // [num_seqs, table_width]
    const int64_t* slots;            // [num_tokens]
    const int64_t* positions;        // [num_tokens]
    const float* cos;                // [positions, head_dim / 2], of all positions
    const float* sin;
    const int64_t* tasks;  // [num_tasks, 4]: sequence, first key head, heads, first query
    int64_t num_seqs;
    int64_t table_width;
    int64_t num_tasks;
};

struct AttentionCall {
    bf16* qkv;   // [num_tokens, num_heads + 2 * num_kv_heads, head_dim]
    bf16* keys;  // the layer's cache
    bf16* values;
    bf16* output;        // [num_tokens, num_heads, head_dim]
    const bf16* q_norm;  // [head_dim], or null
    const bf16* k_norm;
    float eps;
};

void attention(Context* context, const AttentionShape* shape, const AttentionStep* step,
               const AttentionCall* call);

}  // extern "C"
