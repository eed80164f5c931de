// The arguments of a product of rows with a packed weight; panels.h describes the packing.

#pragma once

#include "context.h"
#include "vectors.h"

enum Format : int32_t { kBf16 = 0, kInt8 = 1, kInt4 = 2 };

extern "C" {

struct LinearWeight {
    const uint8_t* panels;
    const bf16* bias;  // [outputs], or null
    int64_t outputs;
    int64_t inputs;
    int32_t format;
    int32_t gated;  // whether a panel has 16 gates and their factors, giving silu(gate) * factor
};

struct LinearCall {
    const bf16* rows;         // [..., inputs], row_stride apart
    const int64_t* indexes;   // [num_rows]: which of them, or null: the first ones
    const bf16* norm_weight;  // [inputs], or null: no norm
    const bf16* residual;     // as output, added to it, or null
    bf16* output;             // [num_rows, outputs]
    int64_t num_rows;
    int64_t row_stride;
    float eps;
};

void linear(Context* context, const LinearWeight* weight, const LinearCall* call);

}  // extern "C"
