// What the kernels of edges share: tokens × inputs prepared for use with all outputs, and how the work is cut.
#pragma once

#include "common.h"

constexpr int MASK = 64;                      // tokens in a tile: the bits of a mask
constexpr int TOKENS = 8 * MASK;              // tokens that are prepared together
constexpr int INPUTS = 64;                    // inputs that are prepared together

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

// How the tokens × outputs are cut into tasks: whole output rows where the tokens suffice for all threads. A task gets a
// multiple of `unit` tokens, and at most `limit`, a multiple, too.
struct Cut {
  int64_t token_blocks, output_blocks, outputs_per_task;
  int tokens_per_task;
  Cut(int64_t tokens, int64_t outputs, int width, int threads, int unit = MASK, int limit = TOKENS) {
    const int64_t units = ((tokens + threads - 1) / threads + unit - 1) / unit;
    tokens_per_task = int(std::min<int64_t>(limit, std::max<int64_t>(1, units) * unit));
    token_blocks = (tokens + tokens_per_task - 1) / tokens_per_task;
    const int64_t tiles = (outputs + width - 1) / width;
    const int64_t wanted = token_blocks >= threads ? 1 : (threads + token_blocks - 1) / std::max<int64_t>(1, token_blocks);
    outputs_per_task = (tiles + wanted - 1) / wanted * width;
    output_blocks = (outputs + outputs_per_task - 1) / outputs_per_task;
  }
};

// Write columns of TOKENS sums, each given as four numbers that remain to be added, into a matrix.
static inline void give_columns(float* matrix, int64_t stride, const float* columns, int rows, int inputs) {
  Buffer<float> block(MASK * INPUTS);
  for (int n0 = 0; n0 < rows; n0 += MASK) {
    const int alive = std::min(MASK, rows - n0);
    for (int i = 0; i < inputs; i++)
      for (int n = 0; n < alive; n++) block[n * INPUTS + i] = sum(load_quad(columns + (int64_t(i) * TOKENS + n0 + n) * 4));
    for (int n = 0; n < alive; n++)
      std::memcpy(matrix + (n0 + n) * stride, &block[n * INPUTS], inputs * sizeof(float));
  }
}

// The input gradients of a block of tokens and inputs after the other. add(prepared, sums, first_token, tokens, first_input,
// inputs) adds to four numbers per input and token, [input][token], which are summed at the end.
template <int K, class Add>
void each_input_gradient(float* dx, const float* x, const float* domain, const float* table, const Shape& s, int width,
                         int threads, Add add) {
  const Segments<K> segments(table);
  const Cut cut(s.tokens, width, width, threads);
  parallel(cut.token_blocks, threads, [&](int64_t task) {
    Prepared<K> prepared(s.grid);
    Buffer<float> sums(int64_t(INPUTS) * TOKENS * 4);
    const int64_t first_token = task * cut.tokens_per_task;
    const int tokens = int(std::min<int64_t>(cut.tokens_per_task, s.tokens - first_token));
    for (int64_t i0 = 0; i0 < s.inputs; i0 += INPUTS) {
      const int inputs = int(std::min<int64_t>(INPUTS, s.inputs - i0));
      prepared.template fill<true>(x, domain, s, segments, first_token, tokens, i0, inputs);
      std::memset(sums.data, 0, sizeof(float) * int64_t(inputs) * TOKENS * 4);
      add(prepared, sums.data, first_token, tokens, i0, inputs);
      give_columns(dx + first_token * s.inputs + i0, s.inputs, sums.data, tokens, inputs);
    }
  });
}

inline Shape shape_of(const Arguments& c) { return {c.tokens, c.inputs, c.outputs, c.grid, c.extrapolation}; }

// The body of an exported kernel: `kernel` of the basis's order.
#define RUN(kernel, call, ...)                                                   \
  CHECK_SIZE(call)                                                               \
  switch ((call)->order) {                                                       \
    case 1: kernel<1>(__VA_ARGS__, shape_of(*(call)), (call)->threads); break;   \
    case 2: kernel<2>(__VA_ARGS__, shape_of(*(call)), (call)->threads); break;   \
    case 3: kernel<3>(__VA_ARGS__, shape_of(*(call)), (call)->threads); break;   \
    case 4: kernel<4>(__VA_ARGS__, shape_of(*(call)), (call)->threads); break;   \
    case 5: kernel<5>(__VA_ARGS__, shape_of(*(call)), (call)->threads); break;   \
  }                                                                              \
  return 0;
