// The kernels of edges.cpp for bfloat16 weights, with instructions that multiply pairs of bfloat16 and add in float32:
//
//   forward           a lane holds the coefficients k and k + 1 of one output, times B_k and B_{k+1} of the token
//   input gradient    a lane holds two neighbouring outputs
//   weight gradient   a lane holds one output of two tokens of the same interval
//
// Basis values are computed in float32 and rounded to bfloat16 at the multiplication; sums stay in float32.
//
// x, domain, dx and da are float32; base, y, a and g bfloat16. Shapes as in edges.cpp.
#include "edges.h"

#if defined(__AVX512BF16__)

namespace {

constexpr int COARSE = 6;  // intervals up to which two inputs are taken together

inline __mmask32 columns_mask(int64_t columns) {
  return columns >= 32 ? ~__mmask32(0) : columns <= 0 ? 0 : (__mmask32(1) << columns) - 1;
}
inline __m512 multiply_pairs(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
inline __m256i round_to_bf16(__m512 v) { return (__m256i)_mm512_cvtneps_pbh(v); }
inline __m512 widen(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }

// Basis values of one tile of tokens as pairs (k, k + 1): [pair][token].
template <int K>
void pair_basis(uint32_t* pairs, const float* basis) {
  for (int pair = 0; pair < (K + 2) / 2; pair++)
    for (int n = 0; n < MASK; n += 16) {
      const int k = 2 * pair;
      const __m512i low = _mm512_cvtepu16_epi32(round_to_bf16(_mm512_loadu_ps(basis + k * MASK + n)));
      __m512i both = low;
      if (k < K) {
        const __m512i high = _mm512_cvtepu16_epi32(round_to_bf16(_mm512_loadu_ps(basis + (k + 1) * MASK + n)));
        both = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
      }
      _mm512_storeu_si512(pairs + pair * MASK + n, both);
    }
}

template <int PAIRS, int VECTORS>
inline void take_pairs(__m512i (&w)[PAIRS][VECTORS], const uint32_t* rows) {
  for (int pair = 0; pair < PAIRS; pair++)
    for (int z = 0; z < VECTORS; z++) w[pair][z] = _mm512_loadu_si512(rows + (2 * pair * VECTORS + z) * 16);
}
template <int PAIRS, int VECTORS>
inline void add_pairs(__m512 (&total)[VECTORS], const __m512i (&w)[PAIRS][VECTORS], const uint32_t* basis) {
  for (int pair = 0; pair < PAIRS; pair++) {
    const __m512i b = _mm512_set1_epi32(basis[pair * MASK]);
    for (int z = 0; z < VECTORS; z++) total[z] = multiply_pairs(total[z], b, w[pair][z]);
  }
}

template <int K>
void forward(bf16* y, const bf16* base, const float* x, const bf16* a, const float* domain, const float* table,
             const Shape s, int threads) {
  constexpr int VECTORS = 4, WIDTH = 16 * VECTORS, PAIRS = (K + 2) / 2;
  const Segments<K> segments(table);
  const int coefficients = s.grid + K;
  const Cut cut(s.tokens, s.outputs, WIDTH, threads);
  parallel(cut.token_blocks * cut.output_blocks, threads, [&](int64_t task) {
    Prepared<K> prepared(s.grid);
    Buffer<uint32_t> pairs(int64_t(INPUTS) * TOKENS * PAIRS);
    Buffer<uint32_t> slab(int64_t(INPUTS) * coefficients * WIDTH);
    Buffer<float> sums(cut.tokens_per_task * cut.outputs_per_task);  // [tile of outputs][token][WIDTH]
    const int step = s.grid <= COARSE ? 2 : 1;
    const int64_t first_token = task / cut.output_blocks * cut.tokens_per_task;
    const int tokens = int(std::min<int64_t>(cut.tokens_per_task, s.tokens - first_token));
    const int64_t first_output = task % cut.output_blocks * cut.outputs_per_task;
    const int64_t last_output = std::min(first_output + cut.outputs_per_task, s.outputs);
    std::memset(sums.data, 0, sizeof(float) * cut.tokens_per_task * cut.outputs_per_task);
    for (int64_t i0 = 0; i0 < s.inputs; i0 += INPUTS) {
      const int inputs = int(std::min<int64_t>(INPUTS, s.inputs - i0));
      prepared.template fill<false>(x, domain, s, segments, first_token, tokens, i0, inputs);
      for (int i = 0; i < inputs; i++)
        for (int n0 = 0; n0 < tokens; n0 += MASK)
          pair_basis<K>(&pairs[(int64_t(i) * TOKENS + n0) * PAIRS], prepared.basis_of(i, n0 / MASK));
      for (int64_t o = first_output; o < last_output; o += WIDTH) {
        const bf16* from = a + i0 * coefficients * s.outputs + o;
        for (int r = 0; r < inputs * coefficients; r++)
          for (int z = 0; z < VECTORS; z++) {
            const __mmask16 alive = __mmask16(columns_mask(std::min<int64_t>(16, last_output - o - 16 * z)));
            const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(alive, from + r * s.outputs + 16 * z));
            // The last row has no next one. Where a pair of an even order has only one coefficient that counts, the
            // other meets a basis value of 0.
            __m512i high = _mm512_setzero_si512();
            if (r % coefficients < coefficients - 1)
              high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(alive, from + (r + 1) * s.outputs + 16 * z));
            _mm512_storeu_si512(&slab[r * WIDTH + 16 * z], _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
          }
        float* tile = &sums[(o - first_output) * cut.tokens_per_task];
        for (int n0 = 0; n0 < tokens; n0 += MASK)
          // Two inputs at a time, by their joint intervals, halve how often the sums are read and written. On a fine grid
          // too few tokens share a joint interval.
          for (int i = 0; i < inputs; i += step) {
            const bool two = step == 2 && i + 1 < inputs;
            const uint32_t* basis1 = &pairs[(int64_t(i) * TOKENS + n0) * PAIRS];
            const uint32_t* basis2 = basis1 + int64_t(TOKENS) * PAIRS;
            const uint64_t *masks1 = prepared.masks_of(i, n0 / MASK), *masks2 = prepared.masks_of(i + two, n0 / MASK);
            for (int q1 = 0; q1 < s.grid; q1++) {
              if (!masks1[q1]) continue;
              __m512i w1[PAIRS][VECTORS], w2[PAIRS][VECTORS];
              take_pairs<PAIRS, VECTORS>(w1, &slab[(i * coefficients + q1) * WIDTH]);
              for (int q2 = 0; q2 < (two ? s.grid : 1); q2++) {
                uint64_t mask = two ? masks1[q1] & masks2[q2] : masks1[q1];
                if (!mask) continue;
                if (two) take_pairs<PAIRS, VECTORS>(w2, &slab[((i + 1) * coefficients + q2) * WIDTH]);
                do {
                  const int n = __builtin_ctzll(mask);
                  mask &= mask - 1;
                  float* out = tile + (n0 + n) * WIDTH;
                  __m512 total[VECTORS];
                  for (int z = 0; z < VECTORS; z++) total[z] = _mm512_loadu_ps(out + 16 * z);
                  add_pairs<PAIRS, VECTORS>(total, w1, basis1 + n);
                  if (two) add_pairs<PAIRS, VECTORS>(total, w2, basis2 + n);
                  for (int z = 0; z < VECTORS; z++) _mm512_storeu_ps(out + 16 * z, total[z]);
                } while (mask);
              }
            }
          }
      }
    }
    for (int64_t o = first_output; o < last_output; o += 16) {
      const __mmask16 alive = __mmask16(columns_mask(std::min<int64_t>(16, last_output - o)));
      const int64_t local = o - first_output;
      const float* tile = &sums[local / WIDTH * WIDTH * cut.tokens_per_task + local % WIDTH];
      for (int n = 0; n < tokens; n++) {
        __m512 total = _mm512_loadu_ps(tile + n * WIDTH);
        const int64_t place = (first_token + n) * s.outputs + o;
        if (base) total = _mm512_add_ps(total, widen(_mm256_maskz_loadu_epi16(alive, base + place)));
        _mm256_mask_storeu_epi16(y + place, alive, round_to_bf16(total));
      }
    }
  });
}

// A tile of rows × 32 · VECTORS bfloat16; columns that do not exist are zero.
template <int VECTORS>
inline void take_tile(bf16* tile, const bf16* matrix, int64_t stride, int rows, int64_t columns) {
  for (int r = 0; r < rows; r++)
    for (int z = 0; z < VECTORS; z++) {
      const __mmask32 alive = columns_mask(columns - 32 * z);
      _mm512_storeu_si512(tile + (r * VECTORS + z) * 32, _mm512_maskz_loadu_epi16(alive, matrix + r * stride + 32 * z));
    }
}

template <int K>
void input_gradient(float* dx, const bf16* g, const float* x, const bf16* a, const float* domain, const float* table,
                    const Shape s, int threads) {
  constexpr int VECTORS = 4, WIDTH = 32 * VECTORS;
  const int coefficients = s.grid + K;
  const auto add = [&](Prepared<K>& prepared, float* all_sums, int64_t first_token, int tokens, int64_t i0, int inputs) {
    Buffer<bf16> slab(int64_t(INPUTS) * coefficients * WIDTH), tile(MASK * WIDTH);
    for (int64_t o = 0; o < s.outputs; o += WIDTH) {
      take_tile<VECTORS>(slab.data, a + i0 * coefficients * s.outputs + o, s.outputs, inputs * coefficients,
                         s.outputs - o);
      for (int n0 = 0; n0 < tokens; n0 += MASK) {
        take_tile<VECTORS>(tile.data, g + (first_token + n0) * s.outputs + o, s.outputs, std::min(MASK, tokens - n0),
                           s.outputs - o);
        for (int i = 0; i < inputs; i++) {
          const float* basis = prepared.basis_of(i, n0 / MASK);
          const uint64_t* masks = prepared.masks_of(i, n0 / MASK);
          float* sums = all_sums + (int64_t(i) * TOKENS + n0) * 4;
          for (int q = 0; q < s.grid; q++) {
            uint64_t mask = masks[q];
            if (!mask) continue;
            __m512i w[K + 1][VECTORS];
            for (int k = 0; k <= K; k++)
              for (int z = 0; z < VECTORS; z++)
                w[k][z] = _mm512_loadu_si512(slab.data + (i * coefficients + q + k) * WIDTH + 32 * z);
            do {
              const int n = __builtin_ctzll(mask);
              mask &= mask - 1;
              __m512 product[K + 1];
              for (int k = 0; k <= K; k++) product[k] = _mm512_setzero_ps();
              for (int z = 0; z < VECTORS; z++) {
                const __m512i gradient = _mm512_loadu_si512(tile.data + n * WIDTH + 32 * z);
                for (int k = 0; k <= K; k++) product[k] = multiply_pairs(product[k], gradient, w[k][z]);
              }
              __m512 total = _mm512_setzero_ps();
              for (int k = 0; k <= K; k++)
                total = _mm512_fmadd_ps(_mm512_set1_ps(basis[k * MASK + n]), product[k], total);
              store_quad(sums + 4 * n, load_quad(sums + 4 * n) + fold(total));
            } while (mask);
          }
        }
      }
    }
  };
  each_input_gradient<K>(dx, x, domain, table, s, WIDTH, threads, add);
}

template <int K>
void weight_gradient(float* da, const bf16* g, const float* x, const float* domain, const float* table, const Shape s,
                     int threads) {
  constexpr int VECTORS = K > 3 ? 1 : 2, WIDTH = 32 * VECTORS;
  const Segments<K> segments(table);
  const int coefficients = s.grid + K;
  const int block = int(std::min<int64_t>(INPUTS, (s.inputs + threads - 1) / threads));
  parallel((s.inputs + block - 1) / block, threads, [&](int64_t task) {
    Prepared<K> prepared(s.grid);
    Buffer<float> slab(int64_t(INPUTS) * coefficients * WIDTH);
    Buffer<bf16> tile(MASK * WIDTH), rounded(int64_t(INPUTS) * TOKENS * (K + 1));
    const int64_t i0 = task * block;
    const int inputs = int(std::min<int64_t>(block, s.inputs - i0));
    float* out = da + i0 * coefficients * s.outputs;
    std::memset(out, 0, sizeof(float) * inputs * coefficients * s.outputs);
    for (int64_t first_token = 0; first_token < s.tokens; first_token += TOKENS) {
      const int tokens = int(std::min<int64_t>(TOKENS, s.tokens - first_token));
      prepared.template fill<false>(x, domain, s, segments, first_token, tokens, i0, inputs);
      for (int64_t v = 0; v < int64_t(inputs) * TOKENS * (K + 1); v += 16)
        _mm256_storeu_si256((__m256i*)&rounded[v], round_to_bf16(_mm512_loadu_ps(&prepared.basis[v])));
      for (int64_t o = 0; o < s.outputs; o += WIDTH) {
        std::memset(slab.data, 0, sizeof(float) * inputs * coefficients * WIDTH);  // short sums keep their digits
        for (int n0 = 0; n0 < tokens; n0 += MASK) {
          take_tile<VECTORS>(tile.data, g + (first_token + n0) * s.outputs + o, s.outputs, std::min(MASK, tokens - n0),
                             s.outputs - o);
          for (int i = 0; i < inputs; i++) {
            const bf16* basis = &rounded[(int64_t(i) * TOKENS + n0) * (K + 1)];
            const uint64_t* masks = prepared.masks_of(i, n0 / MASK);
            for (int q = 0; q < s.grid; q++) {
              uint64_t mask = masks[q];
              if (!mask) continue;
              float* rows = slab.data + (i * coefficients + q) * WIDTH;
              __m512 w[K + 1][2 * VECTORS];
              for (int k = 0; k <= K; k++)
                for (int z = 0; z < 2 * VECTORS; z++) w[k][z] = _mm512_loadu_ps(rows + k * WIDTH + 16 * z);
              do {
                const int first = __builtin_ctzll(mask);
                mask &= mask - 1;
                const bool alone = !mask;
                const int second = alone ? first : __builtin_ctzll(mask);
                mask &= mask - 1;
                __m512i pair[2 * VECTORS];
                for (int z = 0; z < VECTORS; z++) {
                  const __m512i g1 = _mm512_loadu_si512(tile.data + first * WIDTH + 32 * z);
                  const __m512i g2 = _mm512_loadu_si512(tile.data + second * WIDTH + 32 * z);
                  pair[2 * z] = _mm512_unpacklo_epi16(g1, g2);
                  pair[2 * z + 1] = _mm512_unpackhi_epi16(g1, g2);
                }
                for (int k = 0; k <= K; k++) {
                  const uint32_t high = alone ? 0 : basis[k * MASK + second];
                  const __m512i b = _mm512_set1_epi32(int(basis[k * MASK + first] | high << 16));
                  for (int z = 0; z < 2 * VECTORS; z++) w[k][z] = multiply_pairs(w[k][z], b, pair[z]);
                }
              } while (mask);
              for (int k = 0; k <= K; k++)
                for (int z = 0; z < 2 * VECTORS; z++) _mm512_storeu_ps(rows + k * WIDTH + 16 * z, w[k][z]);
            }
          }
        }
        // Unpacking took the outputs of every eight by fours: the first four lie in even vectors, the rest in odd ones.
        const int columns = int(std::min<int64_t>(WIDTH, s.outputs - o));
        for (int r = 0; r < inputs * coefficients; r++)
          for (int c = 0; c < columns; c += 4) {
            const float* four = &slab[r * WIDTH + 16 * (c / 32 * 2 + c % 8 / 4) + c % 32 / 8 * 4];
            float* to = out + r * s.outputs + o + c;
            if (c + 4 <= columns)
              for (int i = 0; i < 4; i++) to[i] += four[i];
            else
              for (int i = 0; i < columns - c; i++) to[i] += four[i];
          }
      }
    }
  });
}

}  // namespace

EXPORT int edges_pairs_supported() { return 1; }

EXPORT int edges_pairs_forward(const Arguments* c) {
  RUN(forward, c, (bf16*)c->y, (const bf16*)c->base, c->x, (const bf16*)c->coefficients, c->domain, c->table)
}
EXPORT int edges_pairs_input_gradient(const Arguments* c) {
  RUN(input_gradient, c, c->dx, (const bf16*)c->gradient, c->x, (const bf16*)c->coefficients, c->domain, c->table)
}
EXPORT int edges_pairs_weight_gradient(const Arguments* c) {
  RUN(weight_gradient, c, c->dcoefficients, (const bf16*)c->gradient, c->x, c->domain, c->table)
}

#else

EXPORT int edges_pairs_supported() { return 0; }
EXPORT int edges_pairs_forward(const Arguments*) { return 1; }
EXPORT int edges_pairs_input_gradient(const Arguments*) { return 1; }
EXPORT int edges_pairs_weight_gradient(const Arguments*) { return 1; }

#endif
