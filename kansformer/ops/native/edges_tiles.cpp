// The kernels of edges.cpp for bfloat16 weights on a matrix unit (AMX), which multiplies tiles of 16 rows. All C basis
// values of a block of tokens and inputs, the zeros included, are written to the cache and multiplied there:
//
//   forward           y = base + e W       e[n, i·C + c] = B_c(x_ni), W[i·C + c, o] = A[i, c, o]
//   input gradient    ∂e = g W^T,          ∂x_ni = Σ_c B_c'(x_ni) ∂e[n, i·C + c]
//   weight gradient   ∂W = e^T g
//
// Basis values are rounded to bfloat16; sums stay in float32, and results are rounded once.
//
// x, domain and dx are float32; base, y, a, g and da bfloat16. Shapes as in edges.cpp.
#include "edges.h"
#include "tiles.h"

namespace {

constexpr int STEPS = 16;    // of panels that the first cache holds
constexpr int SPAN = 64;     // inputs that are expanded together at most
constexpr int BLOCK = 256;   // tokens that are multiplied together: their sums stay in the second cache
constexpr int PADDING = 16;  // numbers between rows, which would else fall on the same few places of a cache

// Number of inputs that are expanded together, for this number of basis values.
inline int span_of(int coefficients, int values) { return std::max(1, std::min(SPAN, values / coefficients)); }

// Basis values of some tokens and inputs as left panels, a row per token.
template <int K>
void expand(bf16* e, const float* x, const float* domain, const Shape& s, const Segments<K>& segments, int tokens,
            int inputs) {
  constexpr int PAIRS = (K + 2) / 2;
  const int coefficients = s.grid + K;
  const int64_t width = round_up(inputs * coefficients, STEP);
  Buffer<bf16> line(width);
  float widths[SPAN], basis[2 * PAIRS][SPAN] = {};
  for (int i = 0; i < SPAN; i++) widths[i] = i < inputs ? domain[2 * i + 1] - domain[2 * i] : 1.f;
  for (int n = 0; n < tokens; n++, x += s.inputs) {
    float unit[SPAN] = {};
    for (int i = 0; i < inputs; i++) unit[i] = (x[i] - domain[2 * i]) / widths[i];
    Places<SPAN> at;
    at.locate(unit, 0.f, 1.f, s.grid);
    for (int k = 0; k <= K; k++) segments.values(basis[k], k, at, s.extrapolation, s.grid);
    uint32_t alive[SPAN][PAIRS];
#pragma omp simd
    for (int i = 0; i < SPAN; i++)
      for (int pair = 0; pair < PAIRS; pair++)
        alive[i][pair] = round_to_bf16(basis[2 * pair][i]) | round_to_bf16(basis[2 * pair + 1][i]) << 16;
    std::memset(line.data, 0, sizeof(bf16) * width);
    for (int i = 0; i < inputs; i++)
      std::memcpy(&line[i * coefficients + int(at.interval[i])], alive[i], sizeof(bf16) * (K + 1));
    bf16* row = e + n / SIDE * width * SIDE + n % SIDE * STEP;
    for (int64_t c = 0; c < width; c += STEP) std::memcpy(row + c * SIDE, &line[c], sizeof(bf16) * STEP);
  }
}

template <int K>
void forward(bf16* y, const bf16* base, const float* x, const bf16* a, const float* domain, const float* table,
             const Shape s, int threads) {
  const Segments<K> segments(table);
  const int coefficients = s.grid + K, span = span_of(coefficients, 2 * STEPS * STEP);
  const int64_t spans = (s.inputs + span - 1) / span, panels = (s.outputs + SIDE - 1) / SIDE;
  const int64_t padded_span = round_up(span * coefficients, STEP);
  Buffer<bf16> weights(spans * panels * padded_span * SIDE);
  parallel(spans * panels, threads, [&](int64_t task) {
    const int64_t i0 = task / panels * span, o = task % panels * SIDE;
    pack_columns(&weights[task * padded_span * SIDE], a + i0 * coefficients * s.outputs + o, s.outputs,
                 std::min<int64_t>(span, s.inputs - i0) * coefficients, s.outputs - o);
  });
  const Cut cut(s.tokens, s.outputs, SIDE, threads, MASK, BLOCK);
  parallel(cut.token_blocks * cut.output_blocks, threads, [&](int64_t task) {
    const int64_t first_token = task / cut.output_blocks * cut.tokens_per_task;
    const int tokens = int(std::min<int64_t>(cut.tokens_per_task, s.tokens - first_token));
    const int64_t first_output = task % cut.output_blocks * cut.outputs_per_task;
    const int64_t outputs = std::min(cut.outputs_per_task, s.outputs - first_output);
    const int64_t stride = cut.outputs_per_task + PADDING;
    const Tiles tiles;
    Buffer<float> sums(cut.tokens_per_task * stride);
    Buffer<bf16> e(cut.tokens_per_task * padded_span);
    std::memset(sums.data, 0, sizeof(float) * cut.tokens_per_task * stride);
    for (int64_t i0 = 0; i0 < s.inputs; i0 += span) {
      const int inputs = int(std::min<int64_t>(span, s.inputs - i0));
      const int steps = (inputs * coefficients + STEP - 1) / STEP;
      expand<K>(e.data, x + first_token * s.inputs + i0, domain + 2 * i0, s, segments, tokens, inputs);
      for (int64_t o = 0; o < outputs; o += SIDE) {
        const bf16* panel = &weights[(i0 / span * panels + (first_output + o) / SIDE) * padded_span * SIDE];
        for (int n = 0; n < tokens; n += SIDE)
          tiles.multiply(&sums[n * stride + o], stride, &e[n * steps * STEP],
                         panel, steps, panel + padded_span * SIDE + n / SIDE * steps * AHEAD);
      }
    }
    for (int n = 0; n < tokens; n++) {
      const int64_t place = (first_token + n) * s.outputs + first_output;
      for (int64_t o = 0; o < outputs; o++)
        y[place + o] = bf16(round_to_bf16(sums[n * stride + o] + (base ? widen(base[place + o]) : 0.f)));
    }
  });
}

template <int K>
void input_gradient(float* dx, const bf16* g, const float* x, const bf16* a, const float* domain, const float* table,
                    const Shape s, int threads) {
  const Segments<K> segments(table);
  const int coefficients = s.grid + K, span = span_of(coefficients, STEPS * STEP);
  const int64_t spans = (s.inputs + span - 1) / span, padded_span = round_up(span * coefficients, SIDE);
  const int64_t panels = padded_span / SIDE, depth = round_up(s.outputs, STEP);
  Buffer<bf16> weights(spans * padded_span * depth);
  parallel(spans * panels, threads, [&](int64_t task) {
    const int64_t i0 = task / panels * span, r = task % panels * SIDE;
    pack_rows<false>(&weights[task * SIDE * depth], a + (i0 * coefficients + r) * s.outputs, s.outputs,
                     std::min<int64_t>(span, s.inputs - i0) * coefficients - r, s.outputs);
  });
  const Cut cut(s.tokens, spans, 1, threads, MASK, BLOCK);  // few tokens: spans are shared out, too
  parallel(cut.token_blocks * cut.output_blocks, threads, [&](int64_t task) {
    const int64_t first_span = task % cut.output_blocks * cut.outputs_per_task;
    const int64_t last_span = std::min(first_span + cut.outputs_per_task, spans);
    const int64_t first_token = task / cut.output_blocks * cut.tokens_per_task, stride = cut.tokens_per_task + PADDING;
    const int tokens = int(std::min<int64_t>(cut.tokens_per_task, s.tokens - first_token));
    const Tiles tiles;
    Buffer<bf16> gradients(cut.tokens_per_task * depth);
    Buffer<float> de(padded_span * stride);  // a row per coefficient
    float columns[SPAN][MASK] = {}, slopes[K + 1][MASK];
    for (int n = 0; n < tokens; n += SIDE)
      pack_rows<true>(&gradients[n * depth], g + (first_token + n) * s.outputs, s.outputs, tokens - n, s.outputs);
    for (int64_t i0 = first_span * span; i0 < std::min(last_span * span, s.inputs); i0 += span) {
      const int inputs = int(std::min<int64_t>(span, s.inputs - i0)), rows = inputs * coefficients;
      std::memset(de.data, 0, sizeof(float) * round_up(rows, SIDE) * stride);
      for (int r = 0; r < rows; r += SIDE)
        for (int64_t o = 0; o < depth; o += STEPS * STEP) {
          const bf16* panel = &weights[(i0 / span * padded_span + r) * depth + o * SIDE];
          const int steps = int(std::min<int64_t>(STEPS, (depth - o) / STEP));
          for (int n = 0; n < tokens; n += SIDE)
            tiles.multiply(&de[r * stride + n], stride, panel, &gradients[n * depth + o * SIDE], steps,
                           panel + steps * PANEL + n / SIDE * steps * AHEAD);
        }
      for (int n0 = 0; n0 < tokens; n0 += MASK) {
        const int alive = std::min(MASK, tokens - n0);
        const int64_t place = (first_token + n0) * s.inputs + i0;
        transpose(columns[0], MASK, x + place, s.inputs, alive, inputs);
        for (int i = 0; i < inputs; i++) {
          const float lower = domain[2 * (i0 + i)], width = domain[2 * (i0 + i) + 1] - lower;
          Places<MASK> at;
          at.locate(columns[i], lower, width, s.grid);
          for (int k = 0; k <= K; k++) segments.slopes(slopes[k], k, at, s.extrapolation, s.grid / width);
          for (int n = 0; n < MASK; n += LANES) {
            const Lanes interval = load(at.interval + n);
            Lanes alive_de[K + 1] = {}, total = {};
            for (int q = 0; q < s.grid; q++) {
              const float* row = &de[(i * coefficients + q) * stride + n0 + n];
              for (int k = 0; k <= K; k++)
                alive_de[k] = pick(interval == float(q), load(row + k * stride), alive_de[k]);
            }
            for (int k = 0; k <= K; k++) total += load(slopes[k] + n) * alive_de[k];
            store(columns[i] + n, total);
          }
        }
        transpose(dx + place, s.inputs, columns[0], MASK, inputs, alive);
      }
    }
  });
}

// Basis values of some tokens and inputs as left panels, a row per coefficient.
template <int K>
void expand_transposed(bf16* e, int64_t depth, const float* x, const float* domain, const Shape& s,
                       const Segments<K>& segments, int tokens, int inputs) {
  const int coefficients = s.grid + K;
  float columns[SPAN][MASK] = {}, basis[MASK];
  uint16_t intervals[MASK], values[K + 1][MASK], chosen[MASK];
  for (int n0 = 0; n0 < tokens; n0 += MASK) {
    const int alive = std::min(MASK, tokens - n0);
    transpose(columns[0], MASK, x + n0 * s.inputs, s.inputs, alive, inputs);
    for (int i = 0; i < inputs; i++) {
      Places<MASK> at;
      at.locate(columns[i], domain[2 * i], domain[2 * i + 1] - domain[2 * i], s.grid);
      for (int n = 0; n < MASK; n++) intervals[n] = n < alive ? uint16_t(at.interval[n]) : uint16_t(0x8000);
      for (int k = 0; k <= K; k++) {
        segments.values(basis, k, at, s.extrapolation, s.grid);
#pragma omp simd
        for (int n = 0; n < MASK; n++) values[k][n] = uint16_t(round_to_bf16(basis[n]));
      }
      for (int c = 0; c < coefficients; c++) {
#pragma omp simd
        for (int n = 0; n < MASK; n++) {
          chosen[n] = 0;
          for (int k = 0; k <= K; k++) chosen[n] |= intervals[n] == uint16_t(c - k) ? values[k][n] : uint16_t(0);
        }
        const int r = i * coefficients + c;
        bf16* row = e + r / SIDE * depth * SIDE + r % SIDE * STEP + n0 * SIDE;
        for (int step = 0; step < MASK / STEP; step++) std::memcpy(row + step * PANEL, chosen + step * STEP, 2 * STEP);
      }
    }
  }
}

template <int K>
void weight_gradient(bf16* da, const bf16* g, const float* x, const float* domain, const float* table, const Shape s,
                     int threads) {
  const Segments<K> segments(table);
  const int coefficients = s.grid + K, span = span_of(coefficients, STEPS * STEP / 2);
  const int64_t panels = (s.outputs + SIDE - 1) / SIDE, depth = round_up(s.tokens, STEP);
  Buffer<bf16> gradients(panels * depth * SIDE);
  parallel(panels, threads, [&](int64_t panel) {
    pack_columns(&gradients[panel * depth * SIDE], g + panel * SIDE, s.outputs, s.tokens, s.outputs - panel * SIDE);
  });
  const Cut cut(s.inputs, s.outputs, SIDE, threads, 1, span);
  parallel(cut.token_blocks * cut.output_blocks, threads, [&](int64_t task) {
    const int64_t i0 = task / cut.output_blocks * cut.tokens_per_task;
    const int inputs = int(std::min<int64_t>(cut.tokens_per_task, s.inputs - i0)), rows = inputs * coefficients;
    const int64_t first_output = task % cut.output_blocks * cut.outputs_per_task;
    const int64_t outputs = std::min(cut.outputs_per_task, s.outputs - first_output);
    const int64_t stride = cut.outputs_per_task + PADDING, height = round_up(rows, SIDE);
    const Tiles tiles;
    Buffer<float> sums(height * stride);
    Buffer<bf16> e(height * TOKENS);
    std::memset(sums.data, 0, sizeof(float) * height * stride);
    for (int64_t first_token = 0; first_token < s.tokens; first_token += TOKENS) {
      const int tokens = int(std::min<int64_t>(TOKENS, s.tokens - first_token));
      expand_transposed<K>(e.data, TOKENS, x + first_token * s.inputs + i0, domain + 2 * i0, s, segments, tokens, inputs);
      const int steps = (tokens + STEP - 1) / STEP;
      for (int64_t o = 0; o < outputs; o += SIDE) {
        const bf16* panel = &gradients[((first_output + o) / SIDE * depth + first_token) * SIDE];
        for (int r = 0; r < rows; r += SIDE)
          tiles.multiply(&sums[r * stride + o], stride, &e[r * TOKENS], panel, steps,
                         panel + depth * SIDE + r / SIDE * steps * AHEAD);
      }
    }
    for (int r = 0; r < rows; r++)
      for (int64_t o = 0; o < outputs; o++)
        da[(i0 * coefficients + r) * s.outputs + first_output + o] = bf16(round_to_bf16(sums[r * stride + o]));
  });
}

}  // namespace

EXPORT int edges_tiles_supported() {
#if HAS_TILES
  return tiles_are_permitted();
#else
  return 0;
#endif
}

#if defined(WITHOUT_TILES)  // in a wheel, whose processors with tiles have a library of their own
#define RUN_TILES(...) return 1;
#else
#define RUN_TILES(...) return tiles_are_permitted() ? [&] { RUN(__VA_ARGS__) }() : 1;
#endif

EXPORT int edges_tiles_forward([[maybe_unused]] const Arguments* c) {
  RUN_TILES(forward, c, (bf16*)c->y, (const bf16*)c->base, c->x, (const bf16*)c->coefficients, c->domain, c->table)
}
EXPORT int edges_tiles_input_gradient([[maybe_unused]] const Arguments* c) {
  RUN_TILES(input_gradient, c, c->dx, (const bf16*)c->gradient, c->x, (const bf16*)c->coefficients, c->domain, c->table)
}
EXPORT int edges_tiles_weight_gradient([[maybe_unused]] const Arguments* c) {
  RUN_TILES(weight_gradient, c, (bf16*)c->dcoefficients, (const bf16*)c->gradient, c->x, c->domain, c->table)
}
