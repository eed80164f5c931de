// Attention over a paged KV cache in bf16, for any number of queries of each sequence.
//
// A block of the cache holds `block_size` keys, a multiple of 16, of each key head:
//   keys    [head_dim / 2][block_size][2]: two dimensions of each key lie together
//   values  [block_size / 2][head_dim][2]: two keys of each dimension lie together
// so that both products are dot products of pairs, with no sum across a vector.
//
// A task is some key heads of a sequence and up to 32 of its queries. For each of its heads, the
// query heads that share it are rows. They attend to the keys 64 at a time, from the first to the
// last that a query sees, with the running maximum and sum of online softmax (Milakov and
// Gimelshein, 2018) in float32. A query reads its keys in one order, whatever is computed beside
// it.

#include <algorithm>
#include <cmath>

#include "attention.h"
#include "context.h"
#include "vectors.h"

namespace {

constexpr int kKeys = 64;   // per iteration
constexpr int kLanes = 16;  // in a vector; a block of the cache has a multiple of these
constexpr int kPairs = kLanes / 2;
constexpr int kQueries = 32;   // of a task
constexpr int kMaxGroup = 16;  // query heads that share a key head
constexpr int kMaxRows = kQueries * kMaxGroup;
constexpr int kMaxHeadDim = 256;

}  // namespace

namespace {

// ---- queries and keys: norm and rotary positions ----

// Normalises a head and rotates it in place; dimension i pairs with i + head_dim / 2.
void rotate(bf16* head, int64_t head_dim, const bf16* norm, float eps, const float* cos,
            const float* sin) {
    const int64_t half = head_dim / 2;
    __m512 factor = _mm512_set1_ps(1);
    if (norm) {
        __m512 squares = _mm512_setzero_ps();
        for (int64_t i = 0; i < head_dim; i += 16) {
            const __m512 values = load_bf16(head + i);
            squares = _mm512_fmadd_ps(values, values, squares);
        }
        const float mean = _mm512_reduce_add_ps(squares) / static_cast<float>(head_dim);
        factor = _mm512_set1_ps(1 / std::sqrt(mean + eps));
    }
    for (int64_t i = 0; i < half; i += 16) {
        __m512 left = load_bf16(head + i), right = load_bf16(head + half + i);
        if (norm) {
            left = _mm512_mul_ps(_mm512_mul_ps(left, factor), load_bf16(norm + i));
            right = _mm512_mul_ps(_mm512_mul_ps(right, factor), load_bf16(norm + half + i));
        }
        const __m512 c = _mm512_loadu_ps(cos + i), s = _mm512_loadu_ps(sin + i);
        store_bf16(head + i, _mm512_fmsub_ps(left, c, _mm512_mul_ps(right, s)));
        store_bf16(head + half + i, _mm512_fmadd_ps(right, c, _mm512_mul_ps(left, s)));
    }
}

void write(const AttentionShape& shape, const AttentionCall& call, int64_t head, int64_t slot,
           const bf16* key, const bf16* value) {
    const int64_t size = shape.block_size, dim = shape.head_dim, offset = slot % size;
    const int64_t block = (slot / size * shape.num_kv_heads + head) * size * dim;
    auto* keys = reinterpret_cast<uint32_t*>(call.keys + block) + offset;
    const auto* pairs = reinterpret_cast<const uint32_t*>(key);
    for (int64_t pair = 0; pair < dim / 2; ++pair) keys[pair * size] = pairs[pair];
    bf16* values = call.values + block + offset / 2 * dim * 2 + offset % 2;
    for (int64_t i = 0; i < dim; ++i) values[i * 2] = value[i];
}

// ---- the two products ----

inline __m512i broadcast(const bf16* pair) {
    int bits;
    __builtin_memcpy(&bits, pair, sizeof bits);
    return _mm512_set1_epi32(bits);
}

// scores[row][key] of kRows rows and 64 keys, from four places in the cache.
template <int kRows>
void score(const bf16* const* queries, const bf16* const* keys, const bf16* const* ahead,
           int64_t stride, int64_t head_dim, float* scores) {
    __m512 sums[kRows][4];
#pragma GCC unroll 6
    for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 4
        for (int part = 0; part < 4; ++part) sums[row][part] = _mm512_setzero_ps();
    for (int64_t pair = 0; pair < head_dim / 2; ++pair) {
        __m512i columns[4];
#pragma GCC unroll 4
        for (int part = 0; part < 4; ++part)
            columns[part] = _mm512_loadu_si512(keys[part] + pair * stride);
#pragma GCC unroll 4
        for (int part = 0; part < 4; ++part) _mm_prefetch(ahead[part] + pair * stride, _MM_HINT_T1);
#pragma GCC unroll 6
        for (int row = 0; row < kRows; ++row) {
            const __m512i query = broadcast(queries[row] + pair * 2);
#pragma GCC unroll 4
            for (int part = 0; part < 4; ++part)
                sums[row][part] = dot_bf16(sums[row][part], columns[part], query);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 4
        for (int part = 0; part < 4; ++part)
            _mm512_store_ps(scores + row * kKeys + part * 16, sums[row][part]);
}

// mixed[row][dimension] = scale[row] * mixed + weights[row][key] values[key], for kParts * 16
// dimensions. If the number of values is odd, the last pair's other half may hold anything.
template <int kRows, int kParts>
void mix(const bf16* weights, const bf16* const* values, const bf16* const* ahead, int64_t offset,
         int64_t num_values, const float* scales, int64_t head_dim, float* mixed) {
    __m512 sums[kRows][kParts];
#pragma GCC unroll 12
    for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 8
        for (int part = 0; part < kParts; ++part)
            sums[row][part] = _mm512_mul_ps(_mm512_load_ps(mixed + row * head_dim + part * 16),
                                            _mm512_set1_ps(scales[row]));
    for (int64_t pair = 0; pair < (num_values + 1) / 2; ++pair) {
        const int64_t start = offset + pair % kPairs * head_dim * 2;
        const __m512i kept = _mm512_set1_epi32(pair * 2 + 1 == num_values ? 0xffff : -1);
        __m512i columns[kParts];
#pragma GCC unroll 8
        for (int part = 0; part < kParts; ++part) {
            const bf16* value = values[pair / kPairs] + start + part * 32;
            columns[part] = _mm512_and_si512(_mm512_loadu_si512(value), kept);
            _mm_prefetch(ahead[pair / kPairs] + start + part * 32, _MM_HINT_T1);
        }
#pragma GCC unroll 12
        for (int row = 0; row < kRows; ++row) {
            const __m512i weight = broadcast(weights + row * kKeys + pair * 2);
#pragma GCC unroll 8
            for (int part = 0; part < kParts; ++part)
                sums[row][part] = dot_bf16(sums[row][part], columns[part], weight);
        }
    }
#pragma GCC unroll 12
    for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 8
        for (int part = 0; part < kParts; ++part)
            _mm512_store_ps(mixed + row * head_dim + part * 16, sums[row][part]);
}

constexpr decltype(&score<1>) kScore[] = {nullptr,  score<1>, score<2>, score<3>,
                                          score<4>, score<5>, score<6>};
// Few rows take many dimensions at once, so that values are read as they lie.
constexpr decltype(&mix<1, 8>) kMixWide[] = {nullptr, mix<1, 8>, mix<2, 8>};
constexpr decltype(&mix<1, 2>) kMix[] = {nullptr,    mix<1, 2>,  mix<2, 2>, mix<3, 2>, mix<4, 2>,
                                         mix<5, 2>,  mix<6, 2>,  mix<7, 2>, mix<8, 2>, mix<9, 2>,
                                         mix<10, 2>, mix<11, 2>, mix<12, 2>};
constexpr int kScoreRows = 6, kMixRows = 12, kMixWideRows = 2, kWide = 128;

// ---- softmax ----

// The rows of a task, and what is known of their softmax so far.
struct Tile {
    alignas(64) float scores[kMaxRows * kKeys];
    alignas(64) bf16 weights[kMaxRows * kKeys];
    alignas(64) float mixed[kMaxRows * kMaxHeadDim];
    float highest[kMaxRows];
    float total[kMaxRows];
    float scales[kMaxRows];
    const bf16* queries[kMaxRows];
};

// Turns 64 scores of a row into weights, of which the first `num_seen` count.
void weigh(Tile& tile, int row, int64_t num_seen, float factor) {
    const float* scores = tile.scores + row * kKeys;
    bf16* weights = tile.weights + row * kKeys;
    const auto seen = [=](int part) {
        const int64_t count = num_seen - part * 16;
        return static_cast<__mmask16>(count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1);
    };
    __m512 scaled[4], largest = _mm512_set1_ps(tile.highest[row]);
    for (int part = 0; part < 4; ++part) {
        scaled[part] = _mm512_mul_ps(_mm512_load_ps(scores + part * 16), _mm512_set1_ps(factor));
        largest = _mm512_mask_max_ps(largest, seen(part), largest, scaled[part]);
    }
    const float highest = _mm512_reduce_max_ps(largest);
    __m512 sum = _mm512_setzero_ps();
    for (int part = 0; part < 4; ++part) {
        const __m512 distance = _mm512_sub_ps(scaled[part], _mm512_set1_ps(highest));
        const __m512 weight = _mm512_maskz_mov_ps(seen(part), exp_ps(distance));
        sum = _mm512_add_ps(sum, weight);
        store_bf16(weights + part * 16, weight);
    }
    const float scale = _mm512_cvtss_f32(exp_ps(_mm512_set1_ps(tile.highest[row] - highest)));
    tile.scales[row] = scale;
    tile.total[row] = tile.total[row] * scale + _mm512_reduce_add_ps(sum);
    tile.highest[row] = highest;
}

// The queries of a task, and their sequence.
struct Queries {
    int64_t seq;
    int64_t first;  // of the step's tokens
    int64_t count;
    int64_t position;  // of the first query
    int64_t num_keys;  // that the last query sees

    Queries(const AttentionStep& step, int64_t seq, int64_t query) : seq(seq) {
        const int64_t end = step.query_start_loc[seq + 1];
        first = step.query_start_loc[seq] + query;
        count = std::min<int64_t>(kQueries, end - first);
        position = step.seq_lens[seq] - (end - first);
        num_keys = position + count;
    }
};

// Where 64 keys and their values lie, 16 of each at a time.
struct Keys {
    const bf16* keys[kKeys / kLanes];
    const bf16* values[kKeys / kLanes];
    int64_t num_values;

    Keys(const AttentionShape& shape, const AttentionStep& step, const AttentionCall& call,
         const Queries& queries, int64_t head, int64_t key)
        : num_values(std::clamp<int64_t>(queries.num_keys - key, 0, kKeys)) {
        const int64_t* table = step.block_tables + queries.seq * step.table_width;
        for (int part = 0; part < kKeys / kLanes; ++part) {
            // Past the end the last ones are repeated, with weights of zero.
            const int64_t own =
                std::min(key + part * kLanes, (queries.num_keys - 1) / kLanes * kLanes);
            const int64_t block = table[own / shape.block_size] * shape.num_kv_heads + head;
            const int64_t start = block * shape.block_size * shape.head_dim;
            const int64_t offset = own % shape.block_size;
            keys[part] = call.keys + start + offset * 2;
            values[part] = call.values + start + offset * shape.head_dim;
        }
    }
};

// Lets rows attend to 64 keys, the first of which is `key`, and prefetches the next.
void attend_keys(const AttentionShape& shape, const Queries& queries, const Keys& current,
                 const Keys& next, int64_t key, Tile& tile) {
    const int64_t group = shape.num_heads / shape.num_kv_heads, dim = shape.head_dim;
    const auto rows = static_cast<int>(queries.count * group);
    // Queries before this one see none of the keys.
    const auto blind = static_cast<int>(std::max<int64_t>(0, key - queries.position) * group);
    for (int row = blind; row < rows; row += kScoreRows)
        kScore[std::min(kScoreRows, rows - row)](tile.queries + row, current.keys, next.keys,
                                                 shape.block_size * 2, dim,
                                                 tile.scores + row * kKeys);
    const float factor = 1 / std::sqrt(static_cast<float>(dim));
    for (int row = blind; row < rows; ++row)
        weigh(tile, row, queries.position + row / group + 1 - key, factor);
    const bool wide = rows - blind <= kMixWideRows && dim % kWide == 0;
    const auto* mixes = wide ? &kMixWide[0] : &kMix[0];
    const int step = wide ? kMixWideRows : kMixRows;
    for (int row = blind; row < rows; row += step)
        for (int64_t part = 0; part < dim; part += wide ? kWide : 32)
            mixes[std::min(step, rows - row)](
                tile.weights + row * kKeys, current.values, next.values, part * 2,
                current.num_values, tile.scales + row, dim, tile.mixed + row * dim + part);
}

// One task; see the top of this file.
void attend(const AttentionShape& shape, const AttentionStep& step, const AttentionCall& call,
            const int64_t* task) {
    thread_local auto tile = std::make_unique<Tile>();
    const Queries queries(step, task[0], task[3]);
    const int64_t group = shape.num_heads / shape.num_kv_heads, dim = shape.head_dim;
    const int64_t width = (shape.num_heads + 2 * shape.num_kv_heads) * dim;
    const auto rows = static_cast<int>(queries.count * group);
    const int64_t end = task[1] + task[2];
    Keys current(shape, step, call, queries, task[1], 0);
    for (int64_t head = task[1]; head < end; ++head) {
        const auto column = [=](int row) { return (head * group + row % group) * dim; };
        for (int row = 0; row < rows; ++row) {
            tile->queries[row] = call.qkv + (queries.first + row / group) * width + column(row);
            tile->highest[row] = -INFINITY;
            tile->total[row] = 0;
        }
        std::fill_n(tile->mixed, rows * dim, 0.0f);
        for (int64_t key = 0; key < queries.num_keys; key += kKeys) {
            const bool last = key + kKeys >= queries.num_keys;
            const Keys next(shape, step, call, queries, last ? std::min(head + 1, end - 1) : head,
                            last ? 0 : key + kKeys);
            attend_keys(shape, queries, current, next, key, *tile);
            current = next;
        }
        for (int row = 0; row < rows; ++row) {
            const __m512 share = _mm512_set1_ps(1 / tile->total[row]);
            bf16* output =
                call.output + (queries.first + row / group) * shape.num_heads * dim + column(row);
            for (int64_t i = 0; i < dim; i += 16)
                store_bf16(output + i,
                           _mm512_mul_ps(_mm512_load_ps(tile->mixed + row * dim + i), share));
        }
    }
}

}  // namespace

extern "C" {

// Rotates queries and keys in place, writes keys and values to their slots, and attends.
void attention(Context* context, const AttentionShape* shape, const AttentionStep* step,
               const AttentionCall* call) {
    const int64_t heads = shape->num_heads, kv_heads = shape->num_kv_heads, dim = shape->head_dim;
    const int64_t num_tokens = step->query_start_loc[step->num_seqs];
    const auto prepare = [=](int64_t token) {
        bf16* qkv = call->qkv + token * (heads + 2 * kv_heads) * dim;
        const int64_t angles = step->positions[token] * dim / 2;
        const float *cos = step->cos + angles, *sin = step->sin + angles;
        for (int64_t head = 0; head < heads; ++head)
            rotate(qkv + head * dim, dim, call->q_norm, call->eps, cos, sin);
        for (int64_t head = 0; head < kv_heads; ++head) {
            bf16* key = qkv + (heads + head) * dim;
            rotate(key, dim, call->k_norm, call->eps, cos, sin);
            write(*shape, *call, head, step->slots[token], key, key + kv_heads * dim);
        }
    };
    // Fewer tokens are done before other threads would start.
    constexpr int64_t kTokensOfTask = 4;
    context->parallel_for((num_tokens + kTokensOfTask - 1) / kTokensOfTask, [=](int64_t task) {
        const int64_t end = std::min(num_tokens, (task + 1) * kTokensOfTask);
        for (int64_t token = task * kTokensOfTask; token < end; ++token) prepare(token);
    });
    context->parallel_for(step->num_tasks, [=](int64_t task) {
        attend(*shape, *step, *call, step->tasks + task * 4);
    });
}

}  // extern "C"
