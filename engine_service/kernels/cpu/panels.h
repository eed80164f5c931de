// How a weight is packed.
//
// A weight [outputs, inputs] becomes panels of 32 outputs that a thread reads sequentially. In a
// panel, `unit` consecutive inputs of each output lie together, as one lane of a dot product
// instruction takes them: 2 in bf16, 4 in 8 and in 4 bits.
//
//   bf16   [inputs / 2][32][2]
//   int8   [inputs / 4][32][4] of w + 128; after all panels a float32 scale for each output
//   int4   for each group of 32 inputs: [4][32][4] bytes, whose low halves are w + 8 of the inputs
//          0 to 15 and whose high halves are those of 16 to 31; then a bf16 scale for each output

#pragma once

#include "linear.h"

constexpr int kPanel = 32;
constexpr int kGroup = 32;
constexpr int kInt4GroupBytes = kGroup * kPanel / 2 + kPanel * 2;

inline float* int8_scales(const LinearWeight& weight) {
    const int64_t padded = (weight.outputs + kPanel - 1) / kPanel * kPanel;
    return reinterpret_cast<float*>(const_cast<uint8_t*>(weight.panels) + padded * weight.inputs);
}

inline int64_t panel_bytes(const LinearWeight& weight) {
    if (weight.format == kBf16) return weight.inputs * kPanel * 2;
    if (weight.format == kInt8) return weight.inputs * kPanel;
    return weight.inputs / kGroup * kInt4GroupBytes;
}
