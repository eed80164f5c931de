// Packs weights in the format that panels.h describes, quantizing them if it is int8 or int4.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "context.h"
#include "panels.h"
#include "vectors.h"

namespace {

void pack_bf16_row(const bf16* row, int64_t inputs, uint8_t* panel, int column) {
    auto* target = reinterpret_cast<uint32_t*>(panel) + column;
    for (int64_t unit = 0; unit < inputs / 2; ++unit)
        std::memcpy(target + unit * kPanel, row + unit * 2, 4);
}

// To four units of a column, each of four bytes.
void store_units(uint8_t* panel, int64_t first_unit, int column, __m512i values) {
    alignas(16) uint32_t four[4];
    _mm_store_si128(reinterpret_cast<__m128i*>(four), _mm512_cvtepi32_epi8(values));
    for (int unit = 0; unit < 4; ++unit)
        std::memcpy(panel + ((first_unit + unit) * kPanel + column) * 4, four + unit, 4);
}

void pack_int8_row(const bf16* row, int64_t inputs, uint8_t* panel, int column, float* scale) {
    __m512 maxima = _mm512_setzero_ps();
    for (int64_t i = 0; i < inputs; i += 16)
        maxima = _mm512_max_ps(maxima, _mm512_abs_ps(load_bf16(row + i)));
    *scale = std::max(_mm512_reduce_max_ps(maxima), 0x1p-126f * 127) / 127;
    for (int64_t i = 0; i < inputs; i += 16) {
        const __m512 ratios = _mm512_div_ps(load_bf16(row + i), _mm512_set1_ps(*scale));
        const __m512i values = _mm512_add_epi32(_mm512_cvtps_epi32(ratios), _mm512_set1_epi32(128));
        store_units(panel, i / 4, column, values);
    }
}

// Of 32 values, the first of those with the maximum magnitude.
float extreme_of_group(const bf16* values) {
    const __m512 left = _mm512_abs_ps(load_bf16(values));
    const __m512 right = _mm512_abs_ps(load_bf16(values + 16));
    const __m512 max = _mm512_set1_ps(_mm512_reduce_max_ps(_mm512_max_ps(left, right)));
    const uint32_t found = _mm512_cmpeq_ps_mask(left, max) |
                           static_cast<uint32_t>(_mm512_cmpeq_ps_mask(right, max)) << 16;
    return bf16_to_float(values[found ? __builtin_ctz(found) : 0]);
}

__m512i int4_values(const bf16* values, float width) {
    const __m512 ratios =
        width == 0 ? _mm512_setzero_ps() : _mm512_div_ps(load_bf16(values), _mm512_set1_ps(width));
    const __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(ratios), _mm512_set1_epi32(8));
    return _mm512_min_epi32(_mm512_max_epi32(whole, _mm512_setzero_si512()), _mm512_set1_epi32(15));
}

// The maximum magnitude becomes -8, so that all sixteen values are used.
void pack_int4_row(const bf16* row, int64_t inputs, uint8_t* panel, int column) {
    for (int64_t group = 0; group < inputs / kGroup; ++group) {
        const bf16* values = row + group * kGroup;
        uint8_t* target = panel + group * kInt4GroupBytes;
        const auto rounded = _mm_cvtneps_pbh(_mm_set_ss(extreme_of_group(values) / -8));
        const auto scale = static_cast<bf16>(_mm_cvtsi128_si32(reinterpret_cast<__m128i>(rounded)));
        std::memcpy(target + kGroup * kPanel / 2 + column * 2, &scale, 2);
        const float width = bf16_to_float(scale);
        const __m512i high = _mm512_slli_epi32(int4_values(values + 16, width), 4);
        store_units(target, 0, column, _mm512_or_si512(int4_values(values, width), high));
    }
}

}  // namespace

extern "C" {

int64_t packed_bytes(int32_t format, int64_t outputs, int64_t inputs) {
    const int64_t padded = (outputs + kPanel - 1) / kPanel * kPanel;
    if (format == kBf16) return padded * inputs * 2;
    if (format == kInt8) return padded * (inputs + 4);
    return padded / kPanel * (inputs / kGroup) * kInt4GroupBytes;
}

// Packs rows of a weight, [count, inputs] in bf16: of each 16, the first goes to row `start`, and
// the next 16 follow `stride` rows later. The target is zeroed, and no row is packed twice.
void pack_weight(Context* context, const LinearWeight* weight, const bf16* rows, int64_t count,
                 int64_t start, int64_t stride) {
    context->parallel_for((count + 15) / 16, [=](int64_t task) {
        for (int64_t i = task * 16; i < std::min(count, task * 16 + 16); ++i) {
            const int64_t target = start + task * stride + i % 16;
            auto* panel =
                const_cast<uint8_t*>(weight->panels) + target / kPanel * panel_bytes(*weight);
            const bf16* row = rows + i * weight->inputs;
            const auto column = static_cast<int>(target % kPanel);
            if (weight->format == kBf16)
                pack_bf16_row(row, weight->inputs, panel, column);
            else if (weight->format == kInt8)
                pack_int8_row(row, weight->inputs, panel, column, int8_scales(*weight) + target);
            else
                pack_int4_row(row, weight->inputs, panel, column);
        }
    });
}

}  // extern "C"
