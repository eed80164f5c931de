// A decoder's layers, one after the other: what engine_service/models/qwen3.py says of a layer, in
// five operators.

#include <algorithm>
#include <chrono>

#include "attention.h"
#include "context.h"
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
    const int64_t* token_ids;  // whose rows of the embedding they begin as, or null: they are there
    const int64_t* wanted;     // rows whose hidden states are wanted, ascending
    int64_t num_wanted;        // negative: all
    bf16* hidden;              // [tokens of the step, hidden_size]
};

// Takes hidden states through all layers, in place. Those that are not wanted may become anything:
// the last layer computes only their keys and values.
Elapsed decode(Context* context, const Decoder* decoder, const AttentionStep* step,
               const Tokens* tokens) {
    const AttentionShape& shape = decoder->shape;
    const int64_t num_tokens = step->query_start_loc[step->num_seqs];
    const int64_t size = decoder->hidden_size, mixed_size = shape.num_heads * shape.head_dim;
    const int64_t qkv_size = mixed_size + 2 * shape.num_kv_heads * shape.head_dim;
    bf16* const hidden = tokens->hidden;
    const auto memory = [=](Scratch purpose, int64_t columns) {
        return static_cast<bf16*>(context->scratch(purpose, num_tokens * columns * sizeof(bf16)));
    };
    if (tokens->token_ids)
        for (int64_t row = 0; row < num_tokens; ++row)
            std::copy_n(decoder->embedding + tokens->token_ids[row] * size, size,
                        hidden + row * size);
    Elapsed elapsed{0, 0};
    auto last = std::chrono::steady_clock::now();
    const auto count = [&last](int64_t& part) {
        const auto now = std::chrono::steady_clock::now();
        part += std::chrono::duration_cast<std::chrono::nanoseconds>(now - last).count();
        last = now;
    };
    for (int64_t i = 0; i < decoder->num_layers; ++i) {
        const Layer& layer = decoder->layers[i];
        const int64_t gated_size = layer.gate_up_proj->outputs / 2;
        bf16* const qkv = memory(Scratch::kQkv, qkv_size);
        bf16* const mixed = memory(Scratch::kMixed, mixed_size);
        bf16* const gated = memory(Scratch::kGated, gated_size);
        int64_t num_rows = num_tokens;
        const auto project = [&](const LinearWeight* weight, const bf16* rows,
                                 const int64_t* indexes, int64_t columns, const bf16* norm,
                                 const bf16* residual, bf16* output) {
            const LinearCall call{rows,   indexes,  norm,    residual,
                                  output, num_rows, columns, decoder->eps};
            linear(context, weight, &call);
        };
        project(layer.qkv_proj, hidden, nullptr, size, layer.input_norm, nullptr, qkv);
        count(elapsed.linears);
        const AttentionCall call{qkv,          layer.keys,   layer.values, mixed,
                                 layer.q_norm, layer.k_norm, decoder->eps};
        attention(context, &shape, step, &call);
        count(elapsed.attention);
        const bool selects = i == decoder->num_layers - 1 && tokens->num_wanted >= 0;
        const int64_t* const wanted = selects ? tokens->wanted : nullptr;
        if (selects) num_rows = tokens->num_wanted;
        for (int64_t row = 0; selects && row < num_rows; ++row)
            std::copy_n(hidden + wanted[row] * size, size, hidden + row * size);
        project(layer.o_proj, mixed, wanted, mixed_size, nullptr, hidden, hidden);
        project(layer.gate_up_proj, hidden, nullptr, size, layer.post_attention_norm, nullptr,
                gated);
        project(layer.down_proj, gated, nullptr, gated_size, nullptr, hidden, hidden);
        for (int64_t row = num_rows - 1; selects && row >= 0; --row)
            std::copy_n(hidden + row * size, size, hidden + wanted[row] * size);
        count(elapsed.linears);
    }
    return elapsed;
}

Context* context_create(int num_threads) { return new Context(num_threads); }

void context_destroy(Context* context) { delete context; }

}  // extern "C"
