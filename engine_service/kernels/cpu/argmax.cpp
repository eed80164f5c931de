// Each row's maximum and the lowest column that has it: what greedy decoding needs of logits.

#include <algorithm>
#include <cmath>

#include "context.h"
#include "vectors.h"

namespace {

constexpr int64_t kColumnsOfTask = 16384;

struct Found {
    float value;
    int64_t column;
};

// NaN exceeds every number.
bool exceeds(float value, float other) {
    return value > other || (std::isnan(value) && !std::isnan(other));
}

Found argmax_between(const bf16* row, int64_t start, int64_t end) {
    __m512 values = _mm512_set1_ps(-INFINITY);
    __m512i columns = _mm512_set1_epi32(static_cast<int>(start));
    __m512i present = _mm512_add_epi32(
        columns, _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    __mmask16 nans = 0;
    int64_t column = start;
    for (; column + 16 <= end; column += 16) {
        const __m512 next = load_bf16(row + column);
        const __mmask16 larger = _mm512_cmp_ps_mask(next, values, _CMP_GT_OQ);
        nans |= _mm512_cmp_ps_mask(next, next, _CMP_UNORD_Q);
        values = _mm512_mask_mov_ps(values, larger, next);
        columns = _mm512_mask_mov_epi32(columns, larger, present);
        present = _mm512_add_epi32(present, _mm512_set1_epi32(16));
    }
    if (nans) return {NAN, start};
    const float value = _mm512_reduce_max_ps(values);
    const __mmask16 equal = _mm512_cmp_ps_mask(values, _mm512_set1_ps(value), _CMP_EQ_OQ);
    Found found{value, _mm512_mask_reduce_min_epi32(equal, columns)};
    for (; column < end; ++column) {
        const float next = bf16_to_float(row[column]);
        if (exceeds(next, found.value)) found = {next, column};
    }
    return found;
}

}  // namespace

extern "C" {

// rows [num_rows, num_columns] -> maxima [num_rows], and the lowest columns that have them.
void argmax(Context* context, const bf16* rows, int64_t num_rows, int64_t num_columns,
            float* values, int64_t* columns) {
    const int64_t parts = (num_columns + kColumnsOfTask - 1) / kColumnsOfTask;
    auto* found = static_cast<Found*>(
        context->scratch(Scratch::kPackedRows, num_rows * parts * sizeof(Found)));
    context->parallel_for(num_rows * parts, [=](int64_t task) {
        const int64_t start = task % parts * kColumnsOfTask;
        found[task] = argmax_between(rows + task / parts * num_columns, start,
                                     std::min(num_columns, start + kColumnsOfTask));
    });
    for (int64_t row = 0; row < num_rows; ++row) {
        Found best = found[row * parts];
        for (int64_t part = 1; part < parts; ++part)
            if (exceeds(found[row * parts + part].value, best.value))
                best = found[row * parts + part];
        values[row] = best.value;
        columns[row] = best.column;
    }
}

}  // extern "C"
