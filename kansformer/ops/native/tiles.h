// A matrix unit (AMX), which multiplies tiles of 16 rows of 64 bytes, and how matrices are packed for it.
//
//   sums (32, 32) += left (32, 32 · steps) right (32 · steps, 32)       bfloat16, added in float32
//
// Both are panels, one step after the other. A step of a left panel has its 32 rows; that of a right one has 16 pairs of rows
// of the first 16 columns, the two numbers of a pair side by side, and then those of the other columns.
#pragma once

#include "lanes.h"

#if (defined(__AMX_BF16__) || defined(__AMXBF16__)) && defined(__linux__)  // as GCC and as older Clang spell it
#define HAS_TILES 1
#include <sys/syscall.h>
#include <unistd.h>
// GCC does not know that the instructions read memory.
#define MEMORY_BARRIER __asm__ volatile("" ::: "memory")
#else
#define HAS_TILES 0
#endif

namespace {

constexpr int SIDE = 32;  // rows and columns of the sums: two by two tiles of float32
constexpr int STEP = 32;  // inner dimension of a product of tiles
constexpr int PANEL = SIDE * STEP;
constexpr int AHEAD = PANEL / 8;  // prefetched in a step: a panel serves 8 multiplications, which fetch the next one

inline int64_t round_up(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

// Linux lets a process use the matrix unit once it has asked. What stands in for the unit needs no permission.
inline bool tiles_are_permitted() {
#if HAS_TILES
  constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // arch/x86/include/uapi/asm/prctl.h
  static const bool allowed = syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
  return allowed;
#else
  return true;
#endif
}

#if HAS_TILES
struct Tiles {  // owns the configuration of a thread's matrix unit
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shapes;
    MEMORY_BARRIER;
    _tile_loadconfig(&shapes);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  void multiply(float* sums, int64_t stride, const bf16* left, const bf16* right, int steps, const bf16* ahead) const {
    MEMORY_BARRIER;
    const int64_t bytes = stride * sizeof(float);
    float* below = sums + 16 * stride;
    _tile_loadd(0, sums, bytes);
    _tile_loadd(1, sums + 16, bytes);
    _tile_loadd(2, below, bytes);
    _tile_loadd(3, below + 16, bytes);
    for (int step = 0; step < steps; step++, left += PANEL, right += PANEL, ahead += AHEAD) {
      for (int line = 0; line < AHEAD; line += 32) __builtin_prefetch(ahead + line, 0, 2);
      _tile_loadd(4, left, 64);
      _tile_loadd(6, right, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, right + PANEL / 2, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, left + PANEL / 2, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, bytes);
    _tile_stored(1, sums + 16, bytes);
    _tile_stored(2, below, bytes);
    _tile_stored(3, below + 16, bytes);
  }
};
#else
struct Tiles {  // the same in plain C++, slow: for tests on other processors
  Tiles() {}
  void multiply(float* sums, int64_t stride, const bf16* left, const bf16* right, int steps, const bf16*) const {
    for (int step = 0; step < steps; step++, left += PANEL, right += PANEL)
      for (int row = 0; row < SIDE; row++)
        for (int column = 0; column < SIDE; column++) {
          const bf16* pairs = right + column / 16 * (PANEL / 2) + column % 16 * 2;
          for (int k = 0; k < STEP; k++)
            sums[row * stride + column] += widen(left[row * STEP + k]) * widen(pairs[k / 2 * 32 + k % 2]);
        }
  }
};
#endif

// Pack 32 columns of a matrix as a right panel; columns and rows that do not exist are zero, up to a whole step.
inline void pack_columns(bf16* to, const bf16* matrix, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < round_up(rows, STEP); row += 2)
    for (int tile = 0; tile < 2; tile++) {
      const bf16 *first = matrix + row * stride + 16 * tile, *second = first + stride;
      bf16* out = to + row / STEP * PANEL + tile * (PANEL / 2) + row % STEP / 2 * 32;
      if (row + 1 < rows && columns >= 16 * (tile + 1)) {
#pragma omp simd
        for (int c = 0; c < 16; c++) out[2 * c] = first[c], out[2 * c + 1] = second[c];
      } else {
        for (int c = 0; c < 16; c++) {
          const bool exists = 16 * tile + c < columns;
          out[2 * c] = exists && row < rows ? first[c] : 0;
          out[2 * c + 1] = exists && row + 1 < rows ? second[c] : 0;
        }
      }
    }
}

// to[column][row] = from[row][column], squares of 4 at a time, along the rows that lie further apart.
inline void transpose(float* to, int64_t to_stride, const float* from, int64_t from_stride, int rows, int columns) {
  const auto square = [&](int r, int c) {
    const float* in = from + r * from_stride + c;
    float* out = to + c * to_stride + r;
    if (r + 4 <= rows && c + 4 <= columns) {
      Quad row[4];
      for (int i = 0; i < 4; i++) std::memcpy(&row[i], in + i * from_stride, sizeof(Quad));
      for (int i = 0; i < 4; i++) {
        const Quad column = {row[0][i], row[1][i], row[2][i], row[3][i]};
        std::memcpy(out + i * to_stride, &column, sizeof(Quad));
      }
    } else {
      for (int i = 0; i < std::min(4, rows - r); i++)
        for (int j = 0; j < std::min(4, columns - c); j++) out[j * to_stride + i] = in[i * from_stride + j];
    }
  };
  if (from_stride > to_stride)
    for (int r = 0; r < rows; r += 4)
      for (int c = 0; c < columns; c += 4) square(r, c);
  else
    for (int c = 0; c < columns; c += 4)
      for (int r = 0; r < rows; r += 4) square(r, c);
}

// Pack 32 rows of a matrix as a left panel, or as the columns of a right one.
template <bool RIGHT>
void pack_rows(bf16* to, const bf16* matrix, int64_t stride, int64_t rows, int64_t columns) {
  float pairs[SIDE][STEP / 2] = {};  // two bfloat16 each, which move together
  for (int64_t c = 0; c < round_up(columns, STEP); c += STEP, to += PANEL) {
    const size_t bytes = sizeof(bf16) * std::min<int64_t>(STEP, columns - c);
    for (int row = 0; row < SIDE; row++) {
      if (bytes < sizeof(pairs[row])) std::memset(pairs[row], 0, sizeof(pairs[row]));
      if (row < rows) std::memcpy(pairs[row], matrix + row * stride + c, bytes);
    }
    if (RIGHT)
      for (int tile = 0; tile < 2; tile++)
        transpose((float*)(to + tile * (PANEL / 2)), 16, pairs[16 * tile], STEP / 2, 16, STEP / 2);
    else
      std::memcpy(to, pairs, sizeof(pairs));
  }
}

}  // namespace
