// Products of packed rows with a packed weight in bf16, in 8 bits or in 4 bits; see panels.h and
// rows.h.
//
// Every output is summed in one order, whatever the number of rows or threads.

#include <algorithm>
#include <vector>

#include "context.h"
#include "linear.h"
#include "panels.h"
#include "rows.h"
#include "vectors.h"

namespace {

constexpr int kMaxRows = 12;
constexpr int kMaxRowsInt4 = 8;  // unpacking leaves fewer registers for sums
constexpr int kRowsToSplit = 6;  // or more: two blocks are faster than one
constexpr int kPanelsOfTask = 4;
constexpr int kMaxPanelsOfTask = 16;
constexpr int kAhead = 8192;  // bytes that a thread reads during the latency of memory
constexpr int kStep = 128;    // bytes of a panel per iteration

// What is prefetched while a panel is computed: `step` bytes for each 128 of the panel.
struct Ahead {
    const uint8_t* start;
    int64_t step;

    void fetch() {
        _mm_prefetch(start, _MM_HINT_T1);
        _mm_prefetch(start + 64, _MM_HINT_T1);
        start += step;
    }
};

inline __m512i broadcast(const uint32_t* unit) {
    return _mm512_set1_epi32(static_cast<int>(*unit));
}

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
        _mm512_store_ps(target,
                        _mm512_mul_ps(_mm512_cvtepi32_ps(left[row]), _mm512_mul_ps(first, scale)));
        _mm512_store_ps(target + 16, _mm512_mul_ps(_mm512_cvtepi32_ps(right[row]),
                                                   _mm512_mul_ps(second, scale)));
    }
}

inline __m512i half_bytes(__m512i bytes, int half) {
    const __m512i nibbles = half ? _mm512_srli_epi16(bytes, 4) : bytes;
    return _mm512_and_si512(nibbles, _mm512_set1_epi8(15));
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
            _mm512_store_ps(
                target, _mm512_fmadd_ps(_mm512_cvtepi32_ps(left[row]), _mm512_mul_ps(first, scale),
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

constexpr Multiply kMultiply[kMaxRows + 1] = {
    nullptr,     multiply<1>, multiply<2>, multiply<3>,  multiply<4>,  multiply<5>, multiply<6>,
    multiply<7>, multiply<8>, multiply<9>, multiply<10>, multiply<11>, multiply<12>};

__mmask16 columns_left(int64_t count) {
    return static_cast<__mmask16>(count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1);
}

void finish(const LinearWeight& weight, const LinearCall& call, int64_t row, int64_t column,
            __m512 values) {
    const int64_t outputs = weight.gated ? weight.outputs / 2 : weight.outputs;
    const __mmask16 mask = columns_left(outputs - column);
    const int64_t offset = row * outputs + column;
    if (call.residual) {
        const __m256i halves = _mm256_maskz_loadu_epi16(mask, call.residual + offset);
        values = _mm512_add_ps(
            values, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16)));
    }
    store_bf16(call.output + offset, values, mask);
}

// Bias, SiLU and gating of the sums of a block and a panel; `finish` adds the residual.
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

void linear(Context* context, const LinearWeight* weight, const LinearCall* call) {
    const int64_t inputs = weight->inputs, num_rows = call->num_rows;
    if (num_rows == 0) return;
    const int64_t max_rows = weight->format == kInt4 ? kMaxRowsInt4 : kMaxRows;
    const int64_t num_blocks =
        std::max<int64_t>((num_rows + max_rows - 1) / max_rows, num_rows < kRowsToSplit ? 1 : 2);
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
        auto* values =
            reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) & ~63ull);
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
        alignas(64) float sums[kMaxRows * kPanel];
        const int64_t first = first_row(block);
        const auto rows = static_cast<int>(first_row(block + 1) - first);
        const Rows packed{units + first * (inputs / unit), scales + first * scales_of_row,
                          offsets + first * scales_of_row};
        kMultiply[rows](*weight, packed, panel, ahead, sums);
        store(*weight, *call, first, rows, panel, sums);
    };
    const auto in_tasks = [=](int64_t panels_of_task, const auto& work) {
        context->parallel_for((num_panels + panels_of_task - 1) / panels_of_task,
                              [&](int64_t task) {
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
        in_tasks(std::clamp<int64_t>(share, 1, kMaxPanelsOfTask), [=](int64_t start, int64_t end) {
            for (int64_t panel = start; panel < end; ++panel) {
                // Each block prefetches its part of the next panel, while this one is in the cache.
                const uint8_t* next = weight->panels + std::min(panel + 1, end - 1) * bytes;
                for (int64_t block = 0; block < num_blocks; ++block)
                    multiply_block(
                        block, panel,
                        {next + block * bytes / num_blocks, (kStep + num_blocks - 1) / num_blocks});
            }
        });
    }
}

}  // extern "C"
