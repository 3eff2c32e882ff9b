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
#include "common.h"

namespace {

constexpr int MASK = 64;                      // tokens in a tile: the bits of a mask
constexpr int TOKENS = 4 * MASK;              // tokens that are prepared together
constexpr int INPUTS = 64;                    // inputs that are prepared together
constexpr int VECTORS = LANES == 16 ? 4 : 2;  // vectors in a tile's width: (K + 1) · VECTORS of A fit the registers
constexpr int WIDTH = VECTORS * LANES;        // outputs in a tile

struct Shape {
  int64_t tokens, inputs, outputs;
  int grid, extrapolation;
};

// Basis values (or derivatives by x) and masks of TOKENS × INPUTS.
template <int K>
struct Prepared {
  Buffer<float> basis{int64_t(INPUTS) * TOKENS * (K + 1)};
  Buffer<float> block{int64_t(TOKENS) * INPUTS};
  Buffer<float> column{TOKENS};
  Buffer<uint64_t> masks;
  const int grid;

  explicit Prepared(int grid) : masks(int64_t(INPUTS) * (TOKENS / MASK) * grid), grid(grid) {}

  const float* basis_of(int input, int tile) { return &basis[(int64_t(input) * (TOKENS / MASK) + tile) * MASK * (K + 1)]; }
  const uint64_t* masks_of(int input, int tile) { return &masks[(int64_t(input) * (TOKENS / MASK) + tile) * grid]; }

  // One mask per interval: bit n says that token n lies there.
  void sort_by_interval(uint64_t* m, const float* intervals, int alive) const {
#if defined(__AVX512F__)
    if (grid <= 32) {
      const uint64_t real = alive == MASK ? ~uint64_t(0) : (uint64_t(1) << alive) - 1;
      for (int q = 0; q < grid; q++) {
        const __m512 wanted = _mm512_set1_ps(q);
        uint64_t found = 0;
        for (int part = 0; part < 4; part++)
          found |= uint64_t(_mm512_cmpeq_ps_mask(_mm512_loadu_ps(intervals + 16 * part), wanted)) << 16 * part;
        m[q] = found & real;
      }
      return;
    }
#endif
    for (int q = 0; q < grid; q++) m[q] = 0;
    for (int n = 0; n < alive; n++) m[int(intervals[n])] |= uint64_t(1) << n;
  }

  template <bool SLOPE>
  void fill(const float* x, const float* domain, const Shape& s, const Segments<K>& segments, int64_t first_token,
            int tokens, int64_t first_input, int inputs) {
    const int tiles = (tokens + MASK - 1) / MASK;
    for (int n = 0; n < tokens; n++)
      std::memcpy(&block[n * INPUTS], x + (first_token + n) * s.inputs + first_input, inputs * sizeof(float));
    for (int i = 0; i < inputs; i++) {
      const float lower = domain[2 * (first_input + i)];
      const float width = domain[2 * (first_input + i) + 1] - lower;
      for (int n = 0; n < tiles * MASK; n++) column[n] = n < tokens ? block[n * INPUTS + i] : lower;
      for (int tile = 0; tile < tiles; tile++) {
        float* b = &basis[(int64_t(i) * (TOKENS / MASK) + tile) * MASK * (K + 1)];
        const float* values = column.data + tile * MASK;
        Places<MASK> at;
        at.locate(values, lower, width, s.grid);
        for (int k = 0; k <= K; k++) {
          if (SLOPE)
            segments.slopes(b + k * MASK, k, at, s.extrapolation, s.grid / width);
          else
            segments.values(b + k * MASK, k, at, s.extrapolation, s.grid);
        }
        uint64_t* m = &masks[(int64_t(i) * (TOKENS / MASK) + tile) * grid];
        const int alive = std::min(MASK, tokens - tile * MASK);
        sort_by_interval(m, at.interval, alive);
      }
    }
  }
};

// Copies between a matrix and a tile of WIDTH columns; columns that do not exist are zero.
inline void take_tile(float* tile, const float* matrix, int64_t stride, int rows, int columns) {
  if (columns == WIDTH)
    for (int r = 0; r < rows; r++)
      for (int v = 0; v < VECTORS; v++) store(tile + r * WIDTH + v * LANES, load(matrix + r * stride + v * LANES));
  else
    for (int r = 0; r < rows; r++)
      for (int c = 0; c < WIDTH; c++) tile[r * WIDTH + c] = c < columns ? matrix[r * stride + c] : 0.f;
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

// How the tokens × outputs are cut into tasks: whole output rows where the tokens suffice for all threads.
struct Cut {
  int64_t token_blocks, output_blocks, outputs_per_task;
  int tokens_per_task;
  Cut(int64_t tokens, int64_t outputs, int threads) {
    int64_t per_thread = (tokens + threads - 1) / threads;
    tokens_per_task = int(std::min<int64_t>(TOKENS, std::max<int64_t>(MASK, (per_thread + MASK - 1) / MASK * MASK)));
    token_blocks = (tokens + tokens_per_task - 1) / tokens_per_task;
    const int64_t tiles = (outputs + WIDTH - 1) / WIDTH;
    const int64_t wanted = token_blocks >= threads ? 1 : (threads + token_blocks - 1) / std::max<int64_t>(1, token_blocks);
    outputs_per_task = (tiles + wanted - 1) / wanted * WIDTH;
    output_blocks = (outputs + outputs_per_task - 1) / outputs_per_task;
  }
};

template <int K>
void forward(float* y, const float* base, const float* x, const float* a, const float* domain, const float* table,
             const Shape s, int threads) {
  const Segments<K> segments(table);
  const int coefficients = s.grid + K;
  const Cut cut(s.tokens, s.outputs, threads);
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

template <int K>
void input_gradient(float* dx, const float* g, const float* x, const float* a, const float* domain,
                    const float* table, const Shape s, int threads) {
  const Segments<K> segments(table);
  const int coefficients = s.grid + K;
  const Cut cut(s.tokens, 1, threads);
  parallel(cut.token_blocks, threads, [&](int64_t task) {
    Prepared<K> prepared(s.grid);
    Buffer<float> slab(int64_t(INPUTS) * coefficients * WIDTH), tile(MASK * WIDTH);
    Buffer<float> partial(int64_t(INPUTS) * TOKENS * LANES);  // per input and token, one vector that is summed at the end
    const int64_t first_token = task * cut.tokens_per_task;
    const int tokens = int(std::min<int64_t>(cut.tokens_per_task, s.tokens - first_token));
    for (int64_t i0 = 0; i0 < s.inputs; i0 += INPUTS) {
      const int inputs = int(std::min<int64_t>(INPUTS, s.inputs - i0));
      prepared.template fill<true>(x, domain, s, segments, first_token, tokens, i0, inputs);
      std::memset(partial.data, 0, sizeof(float) * int64_t(INPUTS) * TOKENS * LANES);
      for (int64_t o = 0; o < s.outputs; o += WIDTH) {
        const int columns = int(std::min<int64_t>(WIDTH, s.outputs - o));
        take_tile(slab.data, a + i0 * coefficients * s.outputs + o, s.outputs, inputs * coefficients, columns);
        for (int n0 = 0; n0 < tokens; n0 += MASK) {
          const int rows = std::min(MASK, tokens - n0);
          take_tile(tile.data, g + (first_token + n0) * s.outputs + o, s.outputs, rows, columns);
          for (int i = 0; i < inputs; i++) {
            const float* basis = prepared.basis_of(i, n0 / MASK);
            const uint64_t* masks = prepared.masks_of(i, n0 / MASK);
            float* sums = partial.data + (int64_t(i) * TOKENS + n0) * LANES;
            for (int q = 0; q < s.grid; q++) {
              uint64_t mask = masks[q];
              if (!mask) continue;
              Rows<K> w;
              w.take(slab.data + (i * coefficients + q) * WIDTH);
              do {
                const int n = __builtin_ctzll(mask);
                mask &= mask - 1;
                const float* in = tile.data + n * WIDTH;
                Vector product[K + 1];
                for (int k = 0; k <= K; k++) product[k] = load(in) * w.v[k][0];
                for (int z = 1; z < VECTORS; z++)
                  for (int k = 0; k <= K; k++) product[k] += load(in + z * LANES) * w.v[k][z];
                Vector total = load(sums + n * LANES);
                for (int k = 0; k <= K; k++) total += basis[k * MASK + n] * product[k];
                store(sums + n * LANES, total);
              } while (mask);
            }
          }
        }
      }
      for (int n = 0; n < tokens; n++)
        for (int i = 0; i < inputs; i++)
          dx[(first_token + n) * s.inputs + i0 + i] = sum(load(partial.data + (int64_t(i) * TOKENS + n) * LANES));
    }
  });
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

#define FOR_ORDER(call)                 \
  switch (order) {                      \
    case 1: call<1> arguments; break;   \
    case 2: call<2> arguments; break;   \
    case 3: call<3> arguments; break;   \
    case 4: call<4> arguments; break;   \
    case 5: call<5> arguments; break;   \
  }

EXPORT void edges_forward(float* y, const float* base, const float* x, const float* a, const float* domain,
                          const float* table, int64_t tokens, int64_t inputs, int64_t outputs, int grid, int order,
                          int extrapolation, int threads) {
  const Shape shape{tokens, inputs, outputs, grid, extrapolation};
#define arguments (y, base, x, a, domain, table, shape, threads)
  FOR_ORDER(forward)
#undef arguments
}

EXPORT void edges_input_gradient(float* dx, const float* g, const float* x, const float* a, const float* domain,
                                 const float* table, int64_t tokens, int64_t inputs, int64_t outputs, int grid,
                                 int order, int extrapolation, int threads) {
  const Shape shape{tokens, inputs, outputs, grid, extrapolation};
#define arguments (dx, g, x, a, domain, table, shape, threads)
  FOR_ORDER(input_gradient)
#undef arguments
}

EXPORT void edges_weight_gradient(float* da, const float* g, const float* x, const float* domain, const float* table,
                                  int64_t tokens, int64_t inputs, int64_t outputs, int grid, int order,
                                  int extrapolation, int threads) {
  const Shape shape{tokens, inputs, outputs, grid, extrapolation};
#define arguments (da, g, x, domain, table, shape, threads)
  FOR_ORDER(weight_gradient)
#undef arguments
}
