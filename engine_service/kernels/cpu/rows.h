// Rows as they are multiplied with panels: packed for each call, after an optional norm, in blocks
// of up to 12 rows, of which `unit` consecutive inputs lie together. For int8 a row is rounded to 8
// bits with one scale, for int4 with one for each group. Weights are unsigned and rows signed, as
// the instruction requires; sums start at minus what the weights' offset of 128 or 8 adds.

#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "linear.h"
#include "panels.h"
#include "vectors.h"

// Packed rows of one block, of `rows` rows.
struct Rows {
    const uint32_t* units;   // [inputs / unit][rows]
    const float* scales;     // int8 [rows], int4 [groups][rows]
    const int32_t* offsets;  // as scales: what the sums start at
};

// A row in float32, after the norm if there is one.
inline void read_row(const LinearCall& call, int64_t index, int64_t inputs, float* target) {
    const bf16* row = call.rows + (call.indexes ? call.indexes[index] : index) * call.row_stride;
    if (!call.norm_weight) {
        for (int64_t i = 0; i < inputs; i += 16) _mm512_store_ps(target + i, load_bf16(row + i));
        return;
    }
    __m512 squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < inputs; i += 16) {
        const __m512 values = load_bf16(row + i);
        squares = _mm512_fmadd_ps(values, values, squares);
    }
    const float mean = _mm512_reduce_add_ps(squares) / static_cast<float>(inputs);
    const __m512 factor = _mm512_set1_ps(1 / std::sqrt(mean + call.eps));
    for (int64_t i = 0; i < inputs; i += 16) {
        const __m512 scaled = _mm512_mul_ps(load_bf16(row + i), factor);
        _mm512_store_ps(target + i, _mm512_mul_ps(scaled, load_bf16(call.norm_weight + i)));
    }
}

// Rounds `count` values to 8 bits with one scale, to every stride-th unit; returns the scale.
// Magnitudes are compared as integers, which puts NaN above all: a row that has one becomes NaN.
inline float quantize(const float* values, int64_t count, uint32_t* units, int stride,
                      int32_t* sum) {
    __m512i maxima = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += 16) {
        const __m512 magnitudes = _mm512_abs_ps(_mm512_load_ps(values + i));
        maxima = _mm512_max_epi32(_mm512_castps_si512(magnitudes), maxima);
    }
    const float max = std::bit_cast<float>(_mm512_reduce_max_epi32(maxima));
    const float scale = std::max(max, 0x1p-126f * 127) / 127;
    const __m512 divisor = _mm512_set1_ps(scale);
    __m512i total = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += 16) {
        const __m512i whole =
            _mm512_cvtps_epi32(_mm512_div_ps(_mm512_load_ps(values + i), divisor));
        total = _mm512_add_epi32(total, whole);
        alignas(16) uint32_t four[4];
        _mm_store_si128(reinterpret_cast<__m128i*>(four), _mm512_cvtsepi32_epi8(whole));
        for (int unit = 0; unit < 4; ++unit) units[(i / 4 + unit) * stride] = four[unit];
    }
    *sum = _mm512_reduce_add_epi32(total);
    return scale;
}

inline void pack_row(const LinearWeight& weight, const float* values, int row, int rows,
                     uint32_t* units, float* scales, int32_t* offsets) {
    const int64_t inputs = weight.inputs;
    int32_t sum = 0;
    if (weight.format == kBf16) {
        for (int64_t i = 0; i < inputs; i += 16) {
            alignas(32) uint32_t eight[8];
            store_bf16(reinterpret_cast<bf16*>(eight), _mm512_load_ps(values + i));
            for (int unit = 0; unit < 8; ++unit) units[(i / 2 + unit) * rows + row] = eight[unit];
        }
    } else if (weight.format == kInt8) {
        scales[row] = quantize(values, inputs, units + row, rows, &sum);
        offsets[row] = -128 * sum;
    } else {
        for (int64_t group = 0; group < inputs / kGroup; ++group) {
            uint32_t* own = units + group * kGroup / 4 * rows + row;
            scales[group * rows + row] = quantize(values + group * kGroup, kGroup, own, rows, &sum);
            offsets[group * rows + row] = -8 * sum;
        }
    }
}
