// One vector register of numbers, a lane per channel: how it chooses, how it is read from rows of any length, and how
// every lane looks up or adds to four neighbouring numbers (a quad) at a place of its own.
//
// A register holds LANES / 4 quads. The look-up reads a quad per lane, joins them into four registers so that register
// j has lanes j, 4 + j, 8 + j, ..., and transposes every 4 x 4 square of them; the sum goes the same way back.
#pragma once

#include "common.h"

typedef Vector Lanes;
typedef int IntLanes __attribute__((vector_size(4 * LANES)));

#define INLINE inline __attribute__((always_inline))

INLINE Lanes all(float value) { return value - Lanes{}; }
INLINE Lanes pick(IntLanes condition, Lanes yes, Lanes no) { return condition ? yes : no; }
INLINE Lanes absolute(Lanes v) { return pick(v < 0.f, -v, v); }
INLINE Lanes sign(Lanes v) { return pick(v > 0.f, all(1.f), pick(v < 0.f, all(-1.f), v)); }  // NaN stays
INLINE IntLanes lane_numbers() {
  IntLanes v = {};
  for (int lane = 0; lane < LANES; lane++) v[lane] = lane;
  return v;
}
INLINE Lanes rounded_down(Lanes v) {
  for (int lane = 0; lane < LANES; lane++) v[lane] = std::floor(v[lane]);
  return v;
}

// The smaller and the larger of two; b where one is NaN. Of `pick` GCC does not make the one instruction that this is.
INLINE Lanes smaller(Lanes a, Lanes b) {
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#elif defined(__AVX__)
  return _mm256_min_ps(a, b);
#else
  return pick(a < b, a, b);
#endif
}
INLINE Lanes larger(Lanes a, Lanes b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX__)
  return _mm256_max_ps(a, b);
#else
  return pick(a > b, a, b);
#endif
}

INLINE Lanes rounded_to_bf16(Lanes v) {
  IntLanes bits = reinterpret_cast<IntLanes>(v);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & ~0xffff;
  return pick(v == v, reinterpret_cast<Lanes>(bits), v);
}

// The LANES numbers from `channel` on of a row that has `alive`; those that do not exist read as zero.
INLINE Lanes read(const float* row, int channel, int alive) {
  if (channel + LANES <= alive) return load(row + channel);
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(__mmask16((1u << (alive - channel)) - 1), row + channel);
#elif defined(__AVX__)
  return _mm256_maskload_ps(row + channel, reinterpret_cast<__m256i>(lane_numbers() < alive - channel));
#else
  Lanes v = {};
  for (int lane = 0; channel + lane < alive; lane++) v[lane] = row[channel + lane];
  return v;
#endif
}
INLINE void write(float* row, Lanes v, int channel, int alive) {
  if (channel + LANES <= alive) return store(row + channel, v);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(row + channel, __mmask16((1u << (alive - channel)) - 1), v);
#elif defined(__AVX__)
  _mm256_maskstore_ps(row + channel, reinterpret_cast<__m256i>(lane_numbers() < alive - channel), v);
#else
  for (int lane = 0; channel + lane < alive; lane++) row[channel + lane] = v[lane];
#endif
}

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, IntLanes{__VA_ARGS__})
#endif

// Quad by quad: numbers A and B of a's quad, then C and D of b's.
template <int A, int B, int C, int D>
INLINE Lanes shuffle_quads(Lanes a, Lanes b) {
#define SHUFFLED(first) first + A, first + B, LANES + first + C, LANES + first + D
#if defined(__AVX512F__)
  return SHUFFLE(a, b, SHUFFLED(0), SHUFFLED(4), SHUFFLED(8), SHUFFLED(12));
#elif defined(__AVX__)
  return SHUFFLE(a, b, SHUFFLED(0), SHUFFLED(4));
#else
  return SHUFFLE(a, b, SHUFFLED(0));
#endif
#undef SHUFFLED
}
#undef SHUFFLE

INLINE void transpose_quads(Lanes* v) {
  const Lanes left01 = shuffle_quads<0, 1, 0, 1>(v[0], v[1]), right01 = shuffle_quads<2, 3, 2, 3>(v[0], v[1]);
  const Lanes left23 = shuffle_quads<0, 1, 0, 1>(v[2], v[3]), right23 = shuffle_quads<2, 3, 2, 3>(v[2], v[3]);
  v[0] = shuffle_quads<0, 2, 0, 2>(left01, left23), v[1] = shuffle_quads<1, 3, 1, 3>(left01, left23);
  v[2] = shuffle_quads<0, 2, 0, 2>(right01, right23), v[3] = shuffle_quads<1, 3, 1, 3>(right01, right23);
}

// A register of quads.
template <class Quads>
INLINE Lanes join(Quads quad) {
#if defined(__AVX512F__)
  __m512 v = _mm512_castps128_ps512(quad(0));
  v = _mm512_insertf32x4(v, quad(1), 1), v = _mm512_insertf32x4(v, quad(2), 2);
  return _mm512_insertf32x4(v, quad(3), 3);
#elif defined(__AVX__)
  return _mm256_insertf128_ps(_mm256_castps128_ps256(quad(0)), quad(1), 1);
#else
  return quad(0);
#endif
}

// The quads at these places of a memory, every fourth, and those at any addresses.
INLINE Lanes join_quads(const float* memory, const int* places) {
  return join([&](int i) { return *reinterpret_cast<const Quad*>(memory + places[4 * i]); });
}
INLINE Lanes join_quads(const float* const* places) {
  return join([&](int i) { return Quad(*reinterpret_cast<const QuadInMemory*>(places[4 * i])); });
}

// v[p] gets, in every lane, memory[places[lane] + p]. Places are multiples of 4, and so is the memory's address.
INLINE void look_up_quads(const float* memory, const int* places, Lanes* v) {
  for (int j = 0; j < 4; j++) v[j] = join_quads(memory, places + j);
  transpose_quads(v);
}

// A table that every lane looks up in: in registers, where there are instructions for it.
constexpr int ENTRIES = 16;
#if defined(__AVX512F__)
constexpr bool CAN_LOOK_UP = true;
INLINE Lanes look_up(const float* table, IntLanes entry) {
  return _mm512_permutexvar_ps(reinterpret_cast<__m512i>(entry), load(table));
}
#elif defined(__AVX2__)
constexpr bool CAN_LOOK_UP = true;
INLINE Lanes look_up(const float* table, IntLanes entry) {
  const __m256i places = reinterpret_cast<__m256i>(entry);  // of which the instruction reads three bits
  const Lanes low = _mm256_permutevar8x32_ps(load(table), places);
  const Lanes high = _mm256_permutevar8x32_ps(load(table + LANES), places);
  return pick(entry >= LANES, high, low);
}
#else
constexpr bool CAN_LOOK_UP = false;
INLINE Lanes look_up(const float*, IntLanes) { return Lanes{}; }
#endif

// memory[places[lane] + p] += v[p] for every lane, no two of which have the same place.
INLINE void add_to_quads(float* memory, const int* places, const Lanes* v) {
  Lanes joined[4] = {v[0], v[1], v[2], v[3]};
  transpose_quads(joined);
  for (int j = 0; j < 4; j++)
    for (int i = 0; i < LANES / 4; i++) {
      Quad* place = reinterpret_cast<Quad*>(memory + places[4 * i + j]);
      *place += reinterpret_cast<const Quad*>(&joined[j])[i];
    }
}
