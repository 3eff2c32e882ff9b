// One B-spline per edge, summed at the outputs, by the K + 1 coefficients of a curve that are alive at an input:
//
//   forward           y_no   = base_no + Σ_i Σ_k B_k(x_ni) A[i, q_ni + k, o]
//   input gradient    ∂x_ni  = Σ_k B_k'(x_ni) Σ_o g_no A[i, q_ni + k, o]
//   weight gradient   ∂A_ico = Σ_n B_{c - q_ni}(x_ni) g_no           q_ni: the grid interval of x_ni
//
// The cost does not grow with the grid. Tokens of a block are sorted by interval (one bit mask per interval), so that
// the K + 1 rows of A stay in registers for all tokens of an interval. A block of tokens × a block of inputs is
// prepared once and then goes over all outputs; tiles of y, g and A are copied, so that no stride hits one cache set.
//
// x (N, I), A (I, C, O), y and g (N, O), domain (I, 2), all contiguous float32.
#include "edges.h"

namespace {

constexpr int VECTORS = LANES == 16 ? 4 : 2;  // vectors in a tile's width: (K + 1) · VECTORS of A fit the registers
constexpr int WIDTH = VECTORS * LANES;        // outputs in a tile
constexpr int LONG = 8 * LANES;               // outputs in a tile of the input gradient, whose A is read from the cache

// Copies between a matrix and a tile of TILE columns; columns that do not exist are zero.
template <int TILE = WIDTH>
inline void take_tile(float* tile, const float* matrix, int64_t stride, int rows, int columns) {
  if (columns == TILE)
    for (int r = 0; r < rows; r++)
      for (int c = 0; c < TILE; c += LANES) store(tile + r * TILE + c, load(matrix + r * stride + c));
  else
    for (int r = 0; r < rows; r++)
      for (int c = 0; c < TILE; c++) tile[r * TILE + c] = c < columns ? matrix[r * stride + c] : 0.f;
}

inline void give_tile(float* matrix, const float* tile, int64_t stride, int rows, int columns) {
  for (int r = 0; r < rows; r++) std::memcpy(matrix + r * stride, tile + r * WIDTH, columns * sizeof(float));
}

template <int K>
struct Rows {  // the K + 1 rows of A that are alive on an interval
  Vector v[K + 1][VECTORS];
  inline void take(const float* from) {
    for (int k = 0; k <= K; k++)
      for (int z = 0; z < VECTORS; z++) v[k][z] = load(from + k * WIDTH + z * LANES);
  }
  inline void give(float* to) const {
    for (int k = 0; k <= K; k++)
      for (int z = 0; z < VECTORS; z++) store(to + k * WIDTH + z * LANES, v[k][z]);
  }
};

template <int K>
void forward(float* y, const float* base, const float* x, const float* a, const float* domain, const float* table,
             const Shape s, int threads) {
  const Segments<K> segments(table);
  const int coefficients = s.grid + K;
  const Cut cut(s.tokens, s.outputs, WIDTH, threads);
  parallel(cut.token_blocks * cut.output_blocks, threads, [&](int64_t task) {
    Prepared<K> prepared(s.grid);
    Buffer<float> slab(int64_t(INPUTS) * coefficients * WIDTH), tile(MASK * WIDTH);
    const int64_t first_token = task / cut.output_blocks * cut.tokens_per_task;
    const int tokens = int(std::min<int64_t>(cut.tokens_per_task, s.tokens - first_token));
    const int64_t first_output = task % cut.output_blocks * cut.outputs_per_task;
    const int64_t last_output = std::min(first_output + cut.outputs_per_task, s.outputs);
    for (int64_t i0 = 0; i0 < s.inputs; i0 += INPUTS) {
      const int inputs = int(std::min<int64_t>(INPUTS, s.inputs - i0));
      prepared.template fill<false>(x, domain, s, segments, first_token, tokens, i0, inputs);
      for (int64_t o = first_output; o < last_output; o += WIDTH) {
        const int columns = int(std::min<int64_t>(WIDTH, last_output - o));
        take_tile(slab.data, a + i0 * coefficients * s.outputs + o, s.outputs, inputs * coefficients, columns);
        for (int n0 = 0; n0 < tokens; n0 += MASK) {
          const int rows = std::min(MASK, tokens - n0);
          const float* start = i0 ? y : base;
          if (start)
            take_tile(tile.data, start + (first_token + n0) * s.outputs + o, s.outputs, rows, columns);
          else
            std::memset(tile.data, 0, MASK * WIDTH * sizeof(float));
          for (int i = 0; i < inputs; i++) {
            const float* basis = prepared.basis_of(i, n0 / MASK);
            const uint64_t* masks = prepared.masks_of(i, n0 / MASK);
            for (int q = 0; q < s.grid; q++) {
              uint64_t mask = masks[q];
              if (!mask) continue;
              Rows<K> w;
              w.take(slab.data + (i * coefficients + q) * WIDTH);
              do {
                const int n = __builtin_ctzll(mask);
                mask &= mask - 1;
                float* out = tile.data + n * WIDTH;
                Vector total[VECTORS];
                for (int z = 0; z < VECTORS; z++) total[z] = load(out + z * LANES);
                for (int k = 0; k <= K; k++)
                  for (int z = 0; z < VECTORS; z++) total[z] += basis[k * MASK + n] * w.v[k][z];
                for (int z = 0; z < VECTORS; z++) store(out + z * LANES, total[z]);
              } while (mask);
            }
          }
          give_tile(y + (first_token + n0) * s.outputs + o, tile.data, s.outputs, rows, columns);
        }
      }
    }
  });
}

// The input gradients of COUNT tokens of one interval, as far as a tile of outputs gives them.
template <int K, int COUNT>
inline void add_slopes(float* sums, const float* gradients, const float* rows, int outputs, const float* basis,
                       const int (&tokens)[COUNT]) {
  Vector product[COUNT][K + 1] = {};
  for (int o = 0; o < outputs; o += LANES) {
    Vector gradient[COUNT];
    for (int t = 0; t < COUNT; t++) gradient[t] = load(gradients + tokens[t] * LONG + o);
    for (int k = 0; k <= K; k++) {
      const Vector row = load(rows + k * LONG + o);
      for (int t = 0; t < COUNT; t++) product[t][k] += gradient[t] * row;
    }
  }
  for (int t = 0; t < COUNT; t++) {
    Vector total = basis[tokens[t]] * product[t][0];
    for (int k = 1; k <= K; k++) total += basis[k * MASK + tokens[t]] * product[t][k];
    float* sum = sums + 4 * tokens[t];
    store_quad(sum, load_quad(sum) + fold(total));
  }
}

template <int K>
void input_gradient(float* dx, const float* g, const float* x, const float* a, const float* domain,
                    const float* table, const Shape s, int threads) {
  const int coefficients = s.grid + K;
  const auto add = [&](Prepared<K>& prepared, float* all_sums, int64_t first_token, int tokens, int64_t i0, int inputs) {
    Buffer<float> slab(int64_t(INPUTS) * coefficients * LONG), tile(MASK * LONG);
    for (int64_t o = 0; o < s.outputs; o += LONG) {
      const int columns = int(std::min<int64_t>(LONG, s.outputs - o));
      take_tile<LONG>(slab.data, a + i0 * coefficients * s.outputs + o, s.outputs, inputs * coefficients, columns);
      for (int n0 = 0; n0 < tokens; n0 += MASK) {
        const int rows = std::min(MASK, tokens - n0);
        take_tile<LONG>(tile.data, g + (first_token + n0) * s.outputs + o, s.outputs, rows, columns);
        for (int i = 0; i < inputs; i++) {
          const float* basis = prepared.basis_of(i, n0 / MASK);
          const uint64_t* masks = prepared.masks_of(i, n0 / MASK);
          float* sums = all_sums + (int64_t(i) * TOKENS + n0) * 4;
          for (int q = 0; q < s.grid; q++) {
            const float* alive = slab.data + (i * coefficients + q) * LONG;
            for (uint64_t mask = masks[q]; mask;) {
              const int first = __builtin_ctzll(mask);
              mask &= mask - 1;
              if (!mask) {
                add_slopes<K, 1>(sums, tile.data, alive, columns, basis, {first});
              } else {
                add_slopes<K, 2>(sums, tile.data, alive, columns, basis, {first, __builtin_ctzll(mask)});
                mask &= mask - 1;
              }
            }
          }
        }
      }
    }
  };
  each_input_gradient<K>(dx, x, domain, table, s, LONG, threads, add);
}

template <int K>
void weight_gradient(float* da, const float* g, const float* x, const float* domain, const float* table,
                     const Shape s, int threads) {
  const Segments<K> segments(table);
  const int coefficients = s.grid + K;
  const int block = int(std::min<int64_t>(INPUTS, (s.inputs + threads - 1) / threads));
  parallel((s.inputs + block - 1) / block, threads, [&](int64_t task) {
    Prepared<K> prepared(s.grid);
    Buffer<float> slab(int64_t(INPUTS) * coefficients * WIDTH), tile(MASK * WIDTH);
    const int64_t i0 = task * block;
    const int inputs = int(std::min<int64_t>(block, s.inputs - i0));
    float* out = da + i0 * coefficients * s.outputs;
    std::memset(out, 0, sizeof(float) * inputs * coefficients * s.outputs);
    for (int64_t first_token = 0; first_token < s.tokens; first_token += TOKENS) {
      const int tokens = int(std::min<int64_t>(TOKENS, s.tokens - first_token));
      prepared.template fill<false>(x, domain, s, segments, first_token, tokens, i0, inputs);
      for (int64_t o = 0; o < s.outputs; o += WIDTH) {
        const int columns = int(std::min<int64_t>(WIDTH, s.outputs - o));
        std::memset(slab.data, 0, sizeof(float) * inputs * coefficients * WIDTH);  // short sums keep their digits
        for (int n0 = 0; n0 < tokens; n0 += MASK) {
          take_tile(tile.data, g + (first_token + n0) * s.outputs + o, s.outputs, std::min(MASK, tokens - n0), columns);
          for (int i = 0; i < inputs; i++) {
            const float* basis = prepared.basis_of(i, n0 / MASK);
            const uint64_t* masks = prepared.masks_of(i, n0 / MASK);
            for (int q = 0; q < s.grid; q++) {
              uint64_t mask = masks[q];
              if (!mask) continue;
              float* rows = slab.data + (i * coefficients + q) * WIDTH;
              Rows<K> w;
              w.take(rows);
              do {
                const int n = __builtin_ctzll(mask);
                mask &= mask - 1;
                for (int z = 0; z < VECTORS; z++) {
                  const Vector gradient = load(tile.data + n * WIDTH + z * LANES);
                  for (int k = 0; k <= K; k++) w.v[k][z] += basis[k * MASK + n] * gradient;
                }
              } while (mask);
              w.give(rows);
            }
          }
        }
        for (int r = 0; r < inputs * coefficients; r++)
          for (int c = 0; c < columns; c++) out[r * s.outputs + o + c] += slab[r * WIDTH + c];
      }
    }
  });
}

}  // namespace

EXPORT int edges_forward(const Arguments* c) { RUN(forward, c, c->y, c->base, c->x, c->coefficients, c->domain, c->table) }
EXPORT int edges_input_gradient(const Arguments* c) {
  RUN(input_gradient, c, c->dx, c->gradient, c->x, c->coefficients, c->domain, c->table)
}
EXPORT int edges_weight_gradient(const Arguments* c) {
  RUN(weight_gradient, c, c->dcoefficients, c->gradient, c->x, c->domain, c->table)
}
