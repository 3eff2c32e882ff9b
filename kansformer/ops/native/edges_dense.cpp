// The dense form of edges, for processors whose matrix units take bfloat16: all C basis values of a chunk of tokens are
// written out, and matrix products do the rest.
//
//   expand      e[n, i·C + c] = B_c(x_ni)
//   contract    ∂x_ni = Σ_c B_c'(x_ni) ∂e[n, i·C + c]
//
// x and dx float32 (N, I), e bfloat16 (N, I·C).
#include "edges.h"

namespace {

inline uint16_t round_to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (value != value) return 0x7fc0;
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float widen(uint16_t value) {
  const uint32_t bits = uint32_t(value) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

// use(token, input, interval, basis values of that token: stride MASK)
template <int K, bool SLOPE, class Use>
void each(const float* x, const float* domain, const float* table, const Shape& s, int threads, Use use) {
  const Segments<K> segments(table);
  const int64_t per_task = std::min<int64_t>(TOKENS, std::max<int64_t>(MASK, (s.tokens + threads - 1) / threads));
  parallel((s.tokens + per_task - 1) / per_task, threads, [&](int64_t task) {
    Prepared<K> prepared(s.grid);
    const int64_t first = task * per_task;
    const int tokens = int(std::min(per_task, s.tokens - first));
    for (int64_t i0 = 0; i0 < s.inputs; i0 += INPUTS) {
      const int inputs = int(std::min<int64_t>(INPUTS, s.inputs - i0));
      prepared.template fill<SLOPE>(x, domain, s, segments, first, tokens, i0, inputs);
      for (int n0 = 0; n0 < tokens; n0 += MASK)
        for (int i = 0; i < inputs; i++)
          for (int q = 0; q < s.grid; q++)
            for (uint64_t mask = prepared.masks_of(i, n0 / MASK)[q]; mask; mask &= mask - 1) {
              const int n = __builtin_ctzll(mask);
              use(first + n0 + n, i0 + i, q, prepared.basis_of(i, n0 / MASK) + n);
            }
    }
  });
}

template <int K>
void expand(uint16_t* e, const float* x, const float* domain, const float* table, const Shape s, int threads) {
  const int coefficients = s.grid + K;
  each<K, false>(x, domain, table, s, threads, [&](int64_t n, int64_t i, int q, const float* basis) {
    uint16_t* row = e + (n * s.inputs + i) * coefficients;
    std::memset(row, 0, coefficients * sizeof(uint16_t));
    for (int k = 0; k <= K; k++) row[q + k] = round_to_bf16(basis[k * MASK]);
  });
}

template <int K>
void contract(float* dx, const uint16_t* de, const float* x, const float* domain, const float* table, const Shape s,
              int threads) {
  const int coefficients = s.grid + K;
  each<K, true>(x, domain, table, s, threads, [&](int64_t n, int64_t i, int q, const float* basis) {
    const uint16_t* row = de + (n * s.inputs + i) * coefficients;
    float total = 0;
    for (int k = 0; k <= K; k++) total += basis[k * MASK] * widen(row[q + k]);
    dx[n * s.inputs + i] = total;
  });
}

}  // namespace

EXPORT int edges_expand(const Arguments* c) { RUN(expand, c, (uint16_t*)c->y, c->x, c->domain, c->table) }
EXPORT int edges_contract(const Arguments* c) {
  RUN(contract, c, c->dx, (const uint16_t*)c->gradient, c->x, c->domain, c->table)
}
