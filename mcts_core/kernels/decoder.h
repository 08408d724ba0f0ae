// What the caller passes to a forward, and gets from it; `library.py` has the same structures.

#pragma once

#include <cstdint>

extern "C" {

struct Layer {
    const float *attention_norm, *mlp_norm;
    const void *qkv, *output, *gate_up, *down;
    const float *qkv_bias, *output_bias, *gate_up_bias, *down_bias;  // null: none
    const float *query_norm, *key_norm;                              // null: none (Qwen3 has them)
    void *keys, *values;
    int64_t window;  // 0: all of the context
};

struct Model {
    int64_t layers, hidden, heads, kv_heads, dim, intermediate, vocabulary, positions;
    int64_t bfloat16;  // else float32
    float epsilon, scaling;
    const void *embedding;     // [vocabulary, hidden]
    const float *cosines, *sines;  // [positions, dim / 2]
    const float *norm;
    const void *head;  // null: no language head
    const Layer *layer;
};

struct Step {
    int64_t tokens, sequences, kept, slots, block_size, threads, share;
    const int64_t *ids;            // of all tokens, one sequence after the other
    const int64_t *rows, *start;   // sequence s has the tokens from rows[s] to rows[s + 1], at start[s]
    const int64_t *table, *first;  // sequence s has the blocks table[first[s]] to table[first[s + 1]]
    const int64_t *keep;           // tokens whose hidden states and logits are wanted
    float *states;                 // [kept, hidden], after the final norm
    float *logits;                 // [kept, vocabulary]
    int64_t *finite;               // [kept]: whether the hidden state is
    int64_t read, attended;        // out: KV blocks fetched and looked at, in all layers
};

int decoder_permitted();
int decoder_forward(const Model *model, Step *step);
int64_t decoder_size(int of);
}
