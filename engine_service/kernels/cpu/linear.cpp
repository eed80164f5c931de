// Products of rows with a weight in bf16, in 8 bits or in 4 bits.
//
// A weight [outputs, inputs] is packed once into panels of 32 outputs that a thread reads from
// beginning to end. Of a panel, `unit` consecutive inputs of each output lie together, which is what
// one lane of a dot product instruction takes: 2 in bf16, 4 in 8 and in 4 bits.
//
//   bf16   [inputs / 2][32][2]
//   int8   [inputs / 4][32][4] of w + 128; after all panels a float32 scale for each output
//   int4   for each group of 32 inputs: [4][32][4] bytes, whose low halves are w + 8 of the inputs
//          0 to 15 and whose high halves are those of 16 to 31; then a bf16 scale for each output
//
// Rows are packed for each call, after a norm where one is asked for: blocks of up to 12 rows, of
// each `unit` consecutive inputs together. For int8 a row is rounded to 8 bits with one scale, for
// int4 with one for each group. Weights are unsigned and rows signed, as the instruction wants it;
// sums start at what their offset of 128 or 8 adds too much.
//
// Every output is summed in one order, whatever the number of rows or threads.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "context.h"
#include "linear.h"
#include "vectors.h"

namespace {

constexpr int kPanel = 32;
constexpr int kGroup = 32;
constexpr int kMostRows = 12;
constexpr int kMostRowsInt4 = 8;  // what unpacking takes leaves fewer registers for sums
constexpr int kRowsToSplit = 6;  // from which on two blocks are faster than one
constexpr int kPanelsOfTask = 4;
constexpr int kMostPanelsOfTask = 16;
constexpr int kAhead = 8192;  // bytes: what a thread reads in the time that memory takes to answer
constexpr int kStep = 128;    // bytes of a panel that are computed at once
constexpr int kInt4GroupBytes = kGroup * kPanel / 2 + kPanel * 2;

// Packed rows of one block, of `rows` rows.
struct Rows {
    const uint32_t* units;    // [inputs / unit][rows]
    const float* scales;      // int8 [rows], int4 [groups][rows]
    const int32_t* offsets;   // as scales: what the sums start at
};

}  // namespace

extern "C" {

int64_t packed_bytes(int32_t format, int64_t outputs, int64_t inputs) {
    const int64_t padded = (outputs + kPanel - 1) / kPanel * kPanel;
    if (format == kBf16) return padded * inputs * 2;
    if (format == kInt8) return padded * (inputs + 4);
    return padded / kPanel * (inputs / kGroup) * kInt4GroupBytes;
}

}  // extern "C"

namespace {

float* int8_scales(const LinearWeight& weight) {
    const int64_t padded = (weight.outputs + kPanel - 1) / kPanel * kPanel;
    return reinterpret_cast<float*>(const_cast<uint8_t*>(weight.panels) + padded * weight.inputs);
}

int64_t panel_bytes(const LinearWeight& weight) {
    if (weight.format == kBf16) return weight.inputs * kPanel * 2;
    if (weight.format == kInt8) return weight.inputs * kPanel;
    return weight.inputs / kGroup * kInt4GroupBytes;
}

// ---- packing a weight ----

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
    __m512 largest = _mm512_setzero_ps();
    for (int64_t i = 0; i < inputs; i += 16)
        largest = _mm512_max_ps(largest, _mm512_abs_ps(load_bf16(row + i)));
    *scale = std::max(_mm512_reduce_max_ps(largest), 0x1p-126f * 127) / 127;
    for (int64_t i = 0; i < inputs; i += 16) {
        const __m512 ratios = _mm512_div_ps(load_bf16(row + i), _mm512_set1_ps(*scale));
        const __m512i values = _mm512_add_epi32(_mm512_cvtps_epi32(ratios), _mm512_set1_epi32(128));
        store_units(panel, i / 4, column, values);
    }
}

// Of 32 values, the first of those with the largest magnitude.
float largest_of_group(const bf16* values) {
    const __m512 left = _mm512_abs_ps(load_bf16(values));
    const __m512 right = _mm512_abs_ps(load_bf16(values + 16));
    const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(_mm512_max_ps(left, right)));
    const uint32_t found = _mm512_cmpeq_ps_mask(left, largest) |
                           static_cast<uint32_t>(_mm512_cmpeq_ps_mask(right, largest)) << 16;
    return bf16_to_float(values[found ? __builtin_ctz(found) : 0]);
}

__m512i int4_values(const bf16* values, float width) {
    const __m512 ratios =
        width == 0 ? _mm512_setzero_ps() : _mm512_div_ps(load_bf16(values), _mm512_set1_ps(width));
    const __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(ratios), _mm512_set1_epi32(8));
    return _mm512_min_epi32(_mm512_max_epi32(whole, _mm512_setzero_si512()), _mm512_set1_epi32(15));
}

// The largest magnitude becomes -8, so that all sixteen values are of use.
void pack_int4_row(const bf16* row, int64_t inputs, uint8_t* panel, int column) {
    for (int64_t group = 0; group < inputs / kGroup; ++group) {
        const bf16* values = row + group * kGroup;
        uint8_t* target = panel + group * kInt4GroupBytes;
        const auto rounded = _mm_cvtneps_pbh(_mm_set_ss(largest_of_group(values) / -8));
        const auto scale = static_cast<bf16>(_mm_cvtsi128_si32(reinterpret_cast<__m128i>(rounded)));
        std::memcpy(target + kGroup * kPanel / 2 + column * 2, &scale, 2);
        const float width = bf16_to_float(scale);
        const __m512i high = _mm512_slli_epi32(int4_values(values + 16, width), 4);
        store_units(target, 0, column, _mm512_or_si512(int4_values(values, width), high));
    }
}

// ---- packing rows ----

// A row in float32, after the norm if there is one.
void read_row(const LinearCall& call, int64_t index, int64_t inputs, float* target) {
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
// Magnitudes are compared as whole numbers, which puts NaN above all: a row that has one becomes NaN.
float quantize(const float* values, int64_t count, uint32_t* units, int stride, int32_t* sum) {
    __m512i most = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += 16) {
        const __m512 magnitudes = _mm512_abs_ps(_mm512_load_ps(values + i));
        most = _mm512_max_epi32(_mm512_castps_si512(magnitudes), most);
    }
    const float largest = std::bit_cast<float>(_mm512_reduce_max_epi32(most));
    const float scale = std::max(largest, 0x1p-126f * 127) / 127;
    const __m512 divisor = _mm512_set1_ps(scale);
    __m512i total = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += 16) {
        const __m512i whole = _mm512_cvtps_epi32(_mm512_div_ps(_mm512_load_ps(values + i), divisor));
        total = _mm512_add_epi32(total, whole);
        alignas(16) uint32_t four[4];
        _mm_store_si128(reinterpret_cast<__m128i*>(four), _mm512_cvtsepi32_epi8(whole));
        for (int unit = 0; unit < 4; ++unit) units[(i / 4 + unit) * stride] = four[unit];
    }
    *sum = _mm512_reduce_add_epi32(total);
    return scale;
}

void pack_row(const LinearWeight& weight, const float* values, int row, int rows, uint32_t* units,
              float* scales, int32_t* offsets) {
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

// ---- multiplying ----

// What is fetched from memory while a panel is computed: `step` bytes of it for each 128 of the panel.
struct Ahead {
    const uint8_t* start;
    int64_t step;

    void fetch() {
        _mm_prefetch(start, _MM_HINT_T1);
        _mm_prefetch(start + 64, _MM_HINT_T1);
        start += step;
    }
};

inline __m512i broadcast(const uint32_t* unit) { return _mm512_set1_epi32(static_cast<int>(*unit)); }

// sums[row][column] of a block of kRows rows and a panel.
template <int kRows>
void multiply_bf16(const Rows& rows, const uint8_t* panel, Ahead ahead, int64_t inputs,
                   float* sums) {
    __m512 left[kRows], right[kRows];
#pragma GCC unroll 12
    for (int row = 0; row < kRows; ++row) left[row] = right[row] = _mm512_setzero_ps();
    const uint32_t* units = rows.units;
    for (int64_t unit = 0; unit < inputs / 2; ++unit, units += kRows, panel += 128) {
        const __m512i first = _mm512_loadu_si512(panel), second = _mm512_loadu_si512(panel + 64);
        ahead.fetch();
#pragma GCC unroll 12
        for (int row = 0; row < kRows; ++row) {
            const __m512i values = broadcast(units + row);
            left[row] = dot_bf16(left[row], first, values);
            right[row] = dot_bf16(right[row], second, values);
        }
    }
#pragma GCC unroll 12
    for (int row = 0; row < kRows; ++row) {
        _mm512_store_ps(sums + row * kPanel, left[row]);
        _mm512_store_ps(sums + row * kPanel + 16, right[row]);
    }
}

template <int kRows>
void multiply_int8(const Rows& rows, const uint8_t* panel, Ahead ahead, int64_t inputs,
                   const float* scales, float* sums) {
    __m512i left[kRows], right[kRows];
#pragma GCC unroll 12
    for (int row = 0; row < kRows; ++row)
        left[row] = right[row] = _mm512_set1_epi32(rows.offsets[row]);
    const uint32_t* units = rows.units;
    for (int64_t unit = 0; unit < inputs / 4; ++unit, units += kRows, panel += 128) {
        const __m512i first = _mm512_loadu_si512(panel), second = _mm512_loadu_si512(panel + 64);
        ahead.fetch();
#pragma GCC unroll 12
        for (int row = 0; row < kRows; ++row) {
            const __m512i values = broadcast(units + row);
            left[row] = dot_int8(left[row], first, values);
            right[row] = dot_int8(right[row], second, values);
        }
    }
    const __m512 first = _mm512_loadu_ps(scales), second = _mm512_loadu_ps(scales + 16);
#pragma GCC unroll 12
    for (int row = 0; row < kRows; ++row) {
        const __m512 scale = _mm512_set1_ps(rows.scales[row]);
        float* target = sums + row * kPanel;
        _mm512_store_ps(target, _mm512_mul_ps(_mm512_cvtepi32_ps(left[row]),
                                              _mm512_mul_ps(first, scale)));
        _mm512_store_ps(target + 16, _mm512_mul_ps(_mm512_cvtepi32_ps(right[row]),
                                                   _mm512_mul_ps(second, scale)));
    }
}

inline __m512i half_bytes(__m512i bytes, int half) {
    const __m512i wanted = half ? _mm512_srli_epi16(bytes, 4) : bytes;
    return _mm512_and_si512(wanted, _mm512_set1_epi8(15));
}

// The sums of a group are whole numbers; they are added up in float32, in `sums`.
template <int kRows>
void multiply_int4(const Rows& rows, const uint8_t* panel, Ahead ahead, int64_t inputs,
                   float* sums) {
    for (int i = 0; i < kRows * kPanel; i += 16) _mm512_store_ps(sums + i, _mm512_setzero_ps());
    for (int64_t group = 0; group < inputs / kGroup; ++group, panel += kInt4GroupBytes) {
        const int32_t* offsets = rows.offsets + group * kRows;
        __m512i left[kRows], right[kRows];
#pragma GCC unroll 12
        for (int row = 0; row < kRows; ++row)
            left[row] = right[row] = _mm512_set1_epi32(offsets[row]);
        const uint32_t* units = rows.units + group * kGroup / 4 * kRows;
#pragma GCC unroll 4
        for (int quarter = 0; quarter < 4; ++quarter) {
            const uint8_t* bytes = panel + quarter * 128;
            ahead.fetch();
#pragma GCC unroll 2
            for (int half = 0; half < 2; ++half) {
                // Inputs quarter * 4 … of the lower sixteen, then of the upper sixteen.
                const __m512i first = half_bytes(_mm512_loadu_si512(bytes), half);
                const __m512i second = half_bytes(_mm512_loadu_si512(bytes + 64), half);
                const uint32_t* own = units + (quarter + 4 * half) * kRows;
#pragma GCC unroll 12
                for (int row = 0; row < kRows; ++row) {
                    const __m512i values = broadcast(own + row);
                    left[row] = dot_int8(left[row], first, values);
                    right[row] = dot_int8(right[row], second, values);
                }
            }
        }
        const auto* widths = reinterpret_cast<const bf16*>(panel + kGroup * kPanel / 2);
        const __m512 first = load_bf16(widths), second = load_bf16(widths + 16);
        const float* scales = rows.scales + group * kRows;
#pragma GCC unroll 12
        for (int row = 0; row < kRows; ++row) {
            const __m512 scale = _mm512_set1_ps(scales[row]);
            float* target = sums + row * kPanel;
            _mm512_store_ps(target, _mm512_fmadd_ps(_mm512_cvtepi32_ps(left[row]),
                                                    _mm512_mul_ps(first, scale),
                                                    _mm512_load_ps(target)));
            _mm512_store_ps(target + 16, _mm512_fmadd_ps(_mm512_cvtepi32_ps(right[row]),
                                                         _mm512_mul_ps(second, scale),
                                                         _mm512_load_ps(target + 16)));
        }
    }
}

using Multiply = void (*)(const LinearWeight&, const Rows&, int64_t panel, Ahead, float* sums);

template <int kRows>
void multiply(const LinearWeight& weight, const Rows& rows, int64_t panel, Ahead ahead,
              float* sums) {
    const uint8_t* bytes = weight.panels + panel * panel_bytes(weight);
    if (weight.format == kBf16)
        multiply_bf16<kRows>(rows, bytes, ahead, weight.inputs, sums);
    else if (weight.format == kInt8)
        multiply_int8<kRows>(rows, bytes, ahead, weight.inputs,
                             int8_scales(weight) + panel * kPanel, sums);
    else
        multiply_int4<kRows>(rows, bytes, ahead, weight.inputs, sums);
}

constexpr Multiply kMultiply[kMostRows + 1] = {
    nullptr,     multiply<1>, multiply<2>, multiply<3>,  multiply<4>,  multiply<5>, multiply<6>,
    multiply<7>, multiply<8>, multiply<9>, multiply<10>, multiply<11>, multiply<12>};

__mmask16 columns_left(int64_t count) {
    return static_cast<__mmask16>(count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1);
}

void finish(const LinearWeight& weight, const LinearCall& call, int64_t row, int64_t column,
            __m512 values) {
    const int64_t outputs = weight.gated ? weight.outputs / 2 : weight.outputs;
    const __mmask16 mask = columns_left(outputs - column);
    const int64_t place = row * outputs + column;
    if (call.residual) {
        const __m256i halves = _mm256_maskz_loadu_epi16(mask, call.residual + place);
        values = _mm512_add_ps(
            values, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16)));
    }
    store_bf16(call.output + place, values, mask);
}

// What remains to be done with the sums of a block and a panel.
void store(const LinearWeight& weight, const LinearCall& call, int64_t first_row, int rows,
           int64_t panel, const float* sums) {
    for (int row = 0; row < rows; ++row) {
        __m512 left = _mm512_load_ps(sums + row * kPanel);
        __m512 right = _mm512_load_ps(sums + row * kPanel + 16);
        if (weight.bias) {
            left = _mm512_add_ps(left, load_bf16(weight.bias + panel * kPanel));
            right = _mm512_add_ps(right, load_bf16(weight.bias + panel * kPanel + 16));
        }
        if (weight.gated) {
            const __m512 one = _mm512_set1_ps(1);
            const __m512 decay = exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), left));
            left = _mm512_mul_ps(_mm512_div_ps(left, _mm512_add_ps(one, decay)), right);
            finish(weight, call, first_row + row, panel * 16, left);
        } else {
            finish(weight, call, first_row + row, panel * kPanel, left);
            finish(weight, call, first_row + row, panel * kPanel + 16, right);
        }
    }
}

}  // namespace

extern "C" {

// Packs rows of a weight, [count, inputs] in bf16: of each 16, the first goes to row `start`, and the
// next 16 follow `stride` rows later. The target is zeroed, and no row is packed twice.
void pack_weight(Context* context, const LinearWeight* weight, const bf16* rows, int64_t count,
                 int64_t start, int64_t stride) {
    context->parallel_for((count + 15) / 16, [=](int64_t task) {
        for (int64_t i = task * 16; i < std::min(count, task * 16 + 16); ++i) {
            const int64_t target = start + task * stride + i % 16;
            auto* panel = const_cast<uint8_t*>(weight->panels) + target / kPanel * panel_bytes(*weight);
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

void linear(Context* context, const LinearWeight* weight, const LinearCall* call) {
    const int64_t inputs = weight->inputs, num_rows = call->num_rows;
    if (num_rows == 0) return;
    const int64_t most_rows = weight->format == kInt4 ? kMostRowsInt4 : kMostRows;
    const int64_t num_blocks =
        std::max<int64_t>((num_rows + most_rows - 1) / most_rows, num_rows < kRowsToSplit ? 1 : 2);
    const int64_t unit = weight->format == kBf16 ? 2 : 4;
    const int64_t scales_of_row = weight->format == kInt4 ? inputs / kGroup : 1;
    auto* units = static_cast<uint32_t*>(
        context->scratch(Scratch::kPackedRows, num_rows * (inputs / unit + 2 * scales_of_row) * 4));
    auto* scales = reinterpret_cast<float*>(units + num_rows * (inputs / unit));
    auto* offsets = reinterpret_cast<int32_t*>(scales + num_rows * scales_of_row);
    const auto first_row = [=](int64_t block) { return block * num_rows / num_blocks; };

    context->parallel_for(num_blocks, [=](int64_t block) {
        thread_local std::vector<float> memory;
        memory.resize(inputs + 16);
        auto* values = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) & ~63ull);
        const int64_t first = first_row(block);
        const auto rows = static_cast<int>(first_row(block + 1) - first);
        for (int row = 0; row < rows; ++row) {
            read_row(*call, first + row, inputs, values);
            pack_row(*weight, values, row, rows, units + first * (inputs / unit),
                     scales + first * scales_of_row, offsets + first * scales_of_row);
        }
    });
    const int64_t num_panels = (weight->outputs + kPanel - 1) / kPanel;
    const int64_t bytes = panel_bytes(*weight);
    const auto multiply_block = [=](int64_t block, int64_t panel, Ahead ahead) {
        alignas(64) float sums[kMostRows * kPanel];
        const int64_t first = first_row(block);
        const auto rows = static_cast<int>(first_row(block + 1) - first);
        const Rows packed{units + first * (inputs / unit), scales + first * scales_of_row,
                          offsets + first * scales_of_row};
        kMultiply[rows](*weight, packed, panel, ahead, sums);
        store(*weight, *call, first, rows, panel, sums);
    };
    const auto in_tasks = [=](int64_t panels_of_task, const auto& work) {
        context->parallel_for((num_panels + panels_of_task - 1) / panels_of_task, [&](int64_t task) {
            const int64_t start = task * panels_of_task;
            work(start, std::min(num_panels, start + panels_of_task));
        });
    };
    if (num_blocks == 1) {
        in_tasks(kPanelsOfTask, [=](int64_t start, int64_t end) {
            for (int64_t panel = start; panel < end; ++panel)
                multiply_block(0, panel, {weight->panels + panel * bytes + kAhead, kStep});
        });
    } else {
        const int64_t share = num_panels / (2 * context->num_threads());
        in_tasks(std::clamp<int64_t>(share, 1, kMostPanelsOfTask), [=](int64_t start, int64_t end) {
            for (int64_t panel = start; panel < end; ++panel) {
                // Each block fetches its part of the next panel, while this one is at hand.
                const uint8_t* next = weight->panels + std::min(panel + 1, end - 1) * bytes;
                for (int64_t block = 0; block < num_blocks; ++block)
                    multiply_block(block, panel, {next + block * bytes / num_blocks,
                                                  (kStep + num_blocks - 1) / num_blocks});
            }
        });
    }
}

}  // extern "C"
