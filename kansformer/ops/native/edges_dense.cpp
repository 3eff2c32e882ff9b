// The dense form of edges, for processors whose matrix units take bfloat16: all C basis values of a chunk of tokens are
// written out, and matrix products do the rest.
//
//   expand      e[n, i·C + c] = B_c(x_ni)
//   contract    ∂x_ni = Σ_c B_c'(x_ni) ∂e[n, i·C + c]
//
// A tile of tokens and inputs is put together in the cache, where its rows do not fall on the same few places, and then
// copied row by row: basis values are rounded as vectors, and written as pairs.
//
// x and dx float32 (N, I), e bfloat16 (N, I·C).
#include "edges.h"

namespace {

typedef uint16_t bf16;

constexpr int TILE = 1 << 15;  // numbers in a tile of e
constexpr int APART = 32;      // numbers between its rows: a cache line

inline uint32_t round_to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return value != value ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline float widen(uint32_t high_bits) {
  float result;
  std::memcpy(&result, &high_bits, 4);
  return result;
}

struct Tile {
  int64_t token, input;  // the first of each
  int tokens, inputs, coefficients, stride;
};

// use(tile, x): for tiles of MASK tokens at most; x[input][token] of the tile, MASK apart.
template <class Use>
void each_tile(const float* x, const Shape& s, int coefficients, int threads, Use use) {
  const int inputs = int(std::min<int64_t>(s.inputs, std::max(1, TILE / (MASK * coefficients))));
  parallel((s.tokens + MASK - 1) / MASK, threads, [&](int64_t task) {
    Buffer<float> columns(int64_t(inputs) * MASK);
    Tile t{task * MASK, 0, int(std::min<int64_t>(MASK, s.tokens - task * MASK)), 0, coefficients,
           inputs * coefficients + APART};
    Buffer<bf16> memory(int64_t(MASK) * t.stride);
    for (; t.input < s.inputs; t.input += inputs) {
      t.inputs = int(std::min<int64_t>(inputs, s.inputs - t.input));
      for (int n = 0; n < MASK; n++) {
        const float* row = x + (t.token + std::min(n, t.tokens - 1)) * s.inputs + t.input;
        for (int i = 0; i < t.inputs; i++) columns[i * MASK + n] = row[i];
      }
      use(t, columns.data, memory.data);
    }
  });
}

template <int K>
void expand(bf16* e, const float* x, const float* domain, const float* table, const Shape s, int threads) {
  constexpr int PAIRS = (K + 2) / 2;
  const Segments<K> segments(table);
  each_tile(x, s, s.grid + K, threads, [&](const Tile& t, const float* columns, bf16* memory) {
    std::memset(memory, 0, sizeof(bf16) * t.tokens * t.stride);
    for (int i = 0; i < t.inputs; i++) {
      const float lower = domain[2 * (t.input + i)], width = domain[2 * (t.input + i) + 1] - lower;
      Places<MASK> at;
      at.locate(columns + i * MASK, lower, width, s.grid);
      float basis[MASK], next[MASK];
      uint32_t pairs[PAIRS][MASK];
      for (int pair = 0; pair < PAIRS; pair++) {
        const bool alone = 2 * pair == K;
        segments.values(basis, 2 * pair, at, s.extrapolation, s.grid);
        if (!alone) segments.values(next, 2 * pair + 1, at, s.extrapolation, s.grid);
#pragma omp simd
        for (int n = 0; n < MASK; n++)
          pairs[pair][n] = round_to_bf16(basis[n]) | (alone ? 0 : round_to_bf16(next[n]) << 16);
      }
      for (int n = 0; n < t.tokens; n++) {
        bf16* place = memory + n * t.stride + i * t.coefficients + int(at.interval[n]);
        for (int pair = 0; pair < PAIRS; pair++)
          std::memcpy(place + 2 * pair, &pairs[pair][n], 2 * pair == K ? sizeof(bf16) : 2 * sizeof(bf16));
      }
    }
    for (int n = 0; n < t.tokens; n++)
      std::memcpy(e + ((t.token + n) * s.inputs + t.input) * t.coefficients, memory + n * t.stride,
                  sizeof(bf16) * t.inputs * t.coefficients);
  });
}

template <int K>
void contract(float* dx, const bf16* de, const float* x, const float* domain, const float* table, const Shape s,
              int threads) {
  constexpr int PAIRS = (K + 2) / 2;
  const Segments<K> segments(table);
  each_tile(x, s, s.grid + K, threads, [&](const Tile& t, float* columns, bf16* memory) {
    for (int n = 0; n < t.tokens; n++)
      std::memcpy(memory + n * t.stride, de + ((t.token + n) * s.inputs + t.input) * t.coefficients,
                  sizeof(bf16) * t.inputs * t.coefficients);
    for (int i = 0; i < t.inputs; i++) {
      const float lower = domain[2 * (t.input + i)], width = domain[2 * (t.input + i) + 1] - lower;
      Places<MASK> at;
      at.locate(columns + i * MASK, lower, width, s.grid);
      uint32_t pairs[PAIRS][MASK] = {};
      for (int n = 0; n < t.tokens; n++) {
        const bf16* place = memory + n * t.stride + i * t.coefficients + int(at.interval[n]);
        for (int pair = 0; pair < PAIRS; pair++)
          std::memcpy(&pairs[pair][n], place + 2 * pair, 2 * pair == K ? sizeof(bf16) : 2 * sizeof(bf16));
      }
      float slopes[MASK], totals[MASK] = {};
      for (int k = 0; k <= K; k++) {
        segments.slopes(slopes, k, at, s.extrapolation, s.grid / width);
        const uint32_t* pair = pairs[k / 2];
#pragma omp simd
        for (int n = 0; n < MASK; n++) totals[n] += slopes[n] * widen(k % 2 ? pair[n] & 0xffff0000u : pair[n] << 16);
      }
      std::memcpy(columns + i * MASK, totals, sizeof(totals));  // x has been read
    }
    for (int n = 0; n < t.tokens; n++)
      for (int i = 0; i < t.inputs; i++) dx[(t.token + n) * s.inputs + t.input + i] = columns[i * MASK + n];
  });
}

}  // namespace

EXPORT int edges_expand(const Arguments* c) { RUN(expand, c, (bf16*)c->y, c->x, c->domain, c->table) }
EXPORT int edges_contract(const Arguments* c) { RUN(contract, c, c->dx, (const bf16*)c->gradient, c->x, c->domain, c->table) }
