// The closest candidate of every function for every curve. Curves y and candidates t are centred and of length 1, so
// that R² is a squared scalar product; a function with a partner has two candidates of each kind, orthogonal ones, whose
// squares add up:
//
//   r2[f, e] = max over the candidates t of f of (t·y_e)²    or of (t·y_e)² + (t'·y_e)²    best[f, e] = where
//
// A lane is a curve. A block of curves stays in the cache, where all candidates are multiplied with it; products stay in
// registers.
//
// y (E, S), candidates (A, S), r2 (F, E), contiguous float32.
#include "lanes.h"

namespace {

// What searching gets; the same fields, in the same order, as `SearchArguments` in library.py.
struct SearchArguments {
  int64_t size;  // of this struct, as Python knows it
  float* r2;
  int32_t* best;
  const float *curves, *candidates;
  const int64_t *sizes, *has_partner;  // of each function: candidates, those of a partner among them, and 1 or 0
  int64_t num_curves, num_points, num_functions;
  int threads;
};

#if defined(__AVX512F__)
constexpr int VECTORS = 4, ROWS = 6;  // sums that fit 32 registers
#else
constexpr int VECTORS = 3, ROWS = 4;  // 16 registers
#endif
constexpr int BLOCK = VECTORS * LANES;  // curves

struct Best {
  Lanes r2[VECTORS];
  IntLanes place[VECTORS];
};

// Scalar products of ROWS candidates and a block of curves y[point][curve].
INLINE void multiply(const float* const (&rows)[ROWS], const float* y, int64_t points, Lanes (&sums)[ROWS][VECTORS]) {
  Lanes total[ROWS][VECTORS] = {};
  for (int64_t s = 0; s < points; s++) {
    Lanes values[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) values[v] = load(y + s * BLOCK + v * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
      const Lanes factor = all(rows[r][s]);
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; v++) total[r][v] += factor * values[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) sums[r][v] = total[r][v];
}

// The best of `count` candidates, or of `count` pairs, whose second halves stand after all first ones.
template <bool PARTNER>
void find_best(const float* candidates, int64_t count, const float* y, int64_t points, Best& best) {
  constexpr int STEP = PARTNER ? ROWS / 2 : ROWS;
  for (int v = 0; v < VECTORS; v++) best.r2[v] = all(-1.f), best.place[v] = IntLanes{};
  for (int64_t first = 0; first < count; first += STEP) {
    const float* rows[ROWS];
    for (int r = 0; r < ROWS; r++) {
      const int64_t row = std::min<int64_t>(first + r % STEP, count - 1);
      rows[r] = candidates + (row + r / STEP * count) * points;
    }
    Lanes sums[ROWS][VECTORS];
    multiply(rows, y, points, sums);
#pragma GCC unroll 8
    for (int r = 0; r < STEP; r++)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; v++) {
        Lanes r2 = sums[r][v] * sums[r][v];
        if (PARTNER) r2 += sums[r + STEP][v] * sums[r + STEP][v];
        const IntLanes better = r2 > best.r2[v];
        best.r2[v] = pick(better, r2, best.r2[v]);
        best.place[v] = better ? int(first) + r - IntLanes{} : best.place[v];
      }
  }
}

}  // namespace

EXPORT int symbols_search(const SearchArguments* arguments) {
  if (arguments->size != sizeof(SearchArguments)) return 1;
  const SearchArguments& c = *arguments;
  parallel((c.num_curves + BLOCK - 1) / BLOCK, c.threads, [&](int64_t task) {
    const int64_t begin = task * BLOCK;
    const int alive = int(std::min<int64_t>(BLOCK, c.num_curves - begin));
    Buffer<float> y(c.num_points * BLOCK);
    for (int lane = 0; lane < BLOCK; lane++) {
      const float* curve = c.curves + (begin + std::min(lane, alive - 1)) * c.num_points;
      for (int64_t s = 0; s < c.num_points; s++) y[s * BLOCK + lane] = curve[s];
    }
    const float* candidates = c.candidates;
    for (int64_t f = 0; f < c.num_functions; f++) {
      Best best;
      if (c.has_partner[f])
        find_best<true>(candidates, c.sizes[f] / 2, y.data, c.num_points, best);
      else
        find_best<false>(candidates, c.sizes[f], y.data, c.num_points, best);
      candidates += c.sizes[f] * c.num_points;
      const int64_t place = f * c.num_curves + begin;
      std::memcpy(c.r2 + place, best.r2, alive * sizeof(float));
      std::memcpy(c.best + place, best.place, alive * sizeof(int32_t));
    }
  });
  return 0;
}
