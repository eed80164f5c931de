// A decoder's layers, one after the other: what engine_service/models/decoder.py says of a layer,
// in five operators.

#include <algorithm>
#include <chrono>

#include "decoder.h"

extern "C" {

// Takes hidden states through all layers, in place. Rows that are not needed may become anything:
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
        const bool selects = i == decoder->num_layers - 1 && tokens->num_output_rows >= 0;
        const int64_t* const output_rows = selects ? tokens->output_rows : nullptr;
        if (selects) num_rows = tokens->num_output_rows;
        for (int64_t row = 0; selects && row < num_rows; ++row)
            std::copy_n(hidden + output_rows[row] * size, size, hidden + row * size);
        project(layer.o_proj, mixed, output_rows, mixed_size, nullptr, hidden, hidden);
        project(layer.gate_up_proj, hidden, nullptr, size, layer.post_attention_norm, nullptr,
                gated);
        project(layer.down_proj, gated, nullptr, gated_size, nullptr, hidden, hidden);
        for (int64_t row = num_rows - 1; selects && row >= 0; --row)
            std::copy_n(hidden + row * size, size, hidden + output_rows[row] * size);
        count(elapsed.linears);
    }
    return elapsed;
}

Context* context_create(int num_threads) { return new Context(num_threads); }

void context_destroy(Context* context) { delete context; }

}  // extern "C"
