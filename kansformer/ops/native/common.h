// What all kernels share: vectors, memory, and the B-spline pieces of one grid interval.
//
// Shape letters: N tokens, I inputs, O outputs, G grid intervals, K order, C = G + K coefficients per curve.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <cstdlib>

#include "threads.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

#if defined(__AVX512F__)
#include <immintrin.h>
constexpr int LANES = 16;
#elif defined(__AVX__)
#include <immintrin.h>
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

// A vector register of floats: the compiler turns its arithmetic into the machine's instructions. It is read and written
// at any address; GCC for Arm fails on functions that are passed vectors aligned to less than their size.
typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float VectorInMemory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline Vector load(const float* p) { return *reinterpret_cast<const VectorInMemory*>(p); }
static inline void store(float* p, Vector v) { *reinterpret_cast<VectorInMemory*>(p) = v; }

// Four numbers, and a vector's sum as four numbers that remain to be added.
typedef float Quad __attribute__((vector_size(16), may_alias));
typedef float QuadInMemory __attribute__((vector_size(16), aligned(4), may_alias));

static inline Quad load_quad(const float* p) { return *reinterpret_cast<const QuadInMemory*>(p); }
static inline void store_quad(float* p, Quad v) { *reinterpret_cast<QuadInMemory*>(p) = v; }
static inline float sum(Quad v) { return (v[0] + v[1]) + (v[2] + v[3]); }
#if defined(__AVX__)
static inline Quad fold(__m256 v) { return Quad(_mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1))); }
#else
static inline Quad fold(Vector v) { return v; }
#endif
#if defined(__AVX512F__)
static inline Quad fold(__m512 v) {
  const __m256d upper = _mm512_extractf64x4_pd(_mm512_castps_pd(v), 1);
  return fold(_mm256_add_ps(_mm512_castps512_ps256(v), _mm256_castpd_ps(upper)));
}
#endif

typedef uint16_t bf16;

static inline uint32_t round_to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return value != value ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static inline float widen(uint32_t value) {
  float result;
  value <<= 16;
  std::memcpy(&result, &value, 4);
  return result;
}

// What every kernel gets; the same fields, in the same order, as `Arguments` in library.py. Pointers to what is absent or
// not wanted are null. In edges_pairs.cpp and edges_tiles.cpp some of them lead to bfloat16; in curves.cpp, where
// `bfloat16` says so, all that have a number for each channel of a token.
struct Arguments {
  int64_t size;  // of this struct, as Python knows it
  float *y, *dx, *dbase, *dfactor, *dcoefficients, *ddenominator;
  const float *gradient, *base, *factor, *x, *coefficients, *denominator, *domain, *table;
  int64_t tokens, inputs, outputs, curves;
  int family, grid, order, extrapolation, num_coefficients, num_denominator, activation, threads, bfloat16;
};

// A kernel that was given another struct than this does nothing and returns 1.
#define CHECK_SIZE(arguments) \
  if ((arguments)->size != sizeof(Arguments)) return 1;

enum Extrapolation : int { LINEAR = 0, CLAMP = 1, ZERO = 2 };

// Inputs further away than this many domain widths count as this far: zero times infinity would be NaN.
constexpr float MAX_DISTANCE = 1e18f;

// Where COUNT inputs lie in their domain.
template <int COUNT>
struct Places {
  float interval[COUNT];  // the grid interval, a whole number
  float position[COUNT];  // the position in it, 0 to 1; NaN where the input is
  float beyond[COUNT];    // how far outside the domain, in units of the domain
  float inside[COUNT];    // 1 inside the domain, else 0
  float moves[COUNT];     // 1 where the input is nearer than MAX_DISTANCE, else 0: there a curve has a slope

  void locate(const float* x, float lower, float width, float grid) {
#pragma omp simd
    for (int n = 0; n < COUNT; n++) {
      float unit = (x[n] - lower) / width;
      moves[n] = std::fabs(unit) < MAX_DISTANCE ? 1.f : 0.f;
      // The comparisons let NaN through.
      unit = unit > MAX_DISTANCE ? MAX_DISTANCE : unit;
      unit = unit < -MAX_DISTANCE ? -MAX_DISTANCE : unit;
      float near = unit < 0.f ? 0.f : unit;
      near = near > 1.f ? 1.f : near;
      const float scaled = near * grid;
      float q = std::floor(scaled);
      q = q < grid - 1.f ? q : grid - 1.f;
      q = scaled >= 0.f ? q : 0.f;
      interval[n] = q;
      position[n] = scaled - q;
      beyond[n] = unit - near;
      inside[n] = near == unit ? 1.f : 0.f;
    }
  }
};

// The factors of t^p in the j-th of the K + 1 B-splines that are alive on an interval, t in [0, 1]; from Python.
template <int K>
struct Segments {
  float factor[K + 1][K + 1];
  explicit Segments(const float* table) { std::memcpy(factor, table, sizeof(factor)); }

  // The j-th B-spline at each place.
  template <int COUNT>
  void values(float* out, int j, const Places<COUNT>& at, int extrapolation, float grid) const {
    float f[K + 1];
    for (int p = 0; p <= K; p++) f[p] = factor[j][p];
#pragma omp simd
    for (int n = 0; n < COUNT; n++) {
      float total = f[K];
      for (int p = K - 1; p >= 0; p--) total = total * at.position[n] + f[p];
      out[n] = total;
    }
    if (extrapolation == LINEAR) {
#pragma omp simd
      for (int n = 0; n < COUNT; n++) {
        float slope = K * f[K];
        for (int p = K - 1; p >= 1; p--) slope = slope * at.position[n] + p * f[p];
        out[n] += slope * (grid * at.beyond[n]);
      }
    } else if (extrapolation == ZERO) {
      for (int n = 0; n < COUNT; n++) out[n] *= at.inside[n];
    }
  }

  // Its derivative by x; rate is the intervals per unit of x.
  template <int COUNT>
  void slopes(float* out, int j, const Places<COUNT>& at, int extrapolation, float rate) const {
    float f[K + 1];
    for (int p = 1; p <= K; p++) f[p] = p * factor[j][p] * rate;
    const float* alive = extrapolation == LINEAR ? at.moves : at.inside;
#pragma omp simd
    for (int n = 0; n < COUNT; n++) {
      float slope = f[K];
      for (int p = K - 1; p >= 1; p--) slope = slope * at.position[n] + f[p];
      out[n] = slope * alive[n];
    }
  }
};

// Memory that a thread has used and will use again: asking the system for fresh pages on every call costs more than
// many a kernel. A thread keeps KEPT_BYTES at most, in KEPT_PIECES. No std::vector: its growth needs a C++ library of
// 2021, which not every Linux has that wheels are made for.
class Pool {
  struct Piece {
    void* memory;
    size_t size;
  };
  static constexpr size_t KEPT_BYTES = 8 << 20;
  static constexpr int KEPT_PIECES = 32;
  Piece pieces[KEPT_PIECES];
  int count = 0;
  size_t kept = 0;

 public:
  ~Pool() {
    for (int i = 0; i < count; i++) std::free(pieces[i].memory);
  }
  void* take(size_t& size) {
    for (int i = 0; i < count; i++)
      if (pieces[i].size >= size && pieces[i].size <= 2 * size) {
        const Piece found = pieces[i];
        pieces[i] = pieces[--count];
        kept -= size = found.size;
        return found.memory;
      }
    size = (size + 63) / 64 * 64;
    return std::aligned_alloc(64, size);
  }
  void give(void* memory, size_t size) {
    if (kept + size > KEPT_BYTES || count == KEPT_PIECES) return std::free(memory);
    pieces[count++] = {memory, size};
    kept += size;
  }
  static Pool& of_thread() {
    static thread_local Pool pool;
    return pool;
  }
};

// Memory that is not initialised and begins at a cache line. It belongs to the thread that made it.
template <class T>
class Buffer {
  size_t size;

 public:
  T* data;
  explicit Buffer(int64_t count)
      : size(std::max<size_t>(64, count * sizeof(T))), data(static_cast<T*>(Pool::of_thread().take(size))) {}
  ~Buffer() { Pool::of_thread().give(data, size); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T& operator[](int64_t i) { return data[i]; }
};
