// The functions that curves are named after, and what the kernels that fit them share.
#pragma once

#include "wide.h"

// What the kernels get that take pairs of a curve and a function; the same fields, in the same order, as `PairArguments`
// in library.py.
struct PairArguments {
  int64_t size;  // of this struct, as Python knows it
  double* results;
  const double *curves, *points, *params;
  const int64_t *rows, *functions;  // of each pair: number of its curve, and of its row in `table`
  const double* table;              // of each function: its symbol, lower and upper end of its domain, fits a, fits b
  const double* held_out;           // of each point: 1 if the fit does not see it, else 0
  int64_t num_points, num_pairs;
  int steps, threads;
};

struct Function {
  int symbol;
  double lower, upper;
  bool fits_a, fits_b;
  explicit Function(const double* row)
      : symbol(int(row[0])), lower(row[1]), upper(row[2]), fits_a(row[3] != 0), fits_b(row[4] != 0) {}
};

// Numbers of the functions that have a partner, which with them spans all their shifts: their slope, times a number.
enum : int { PARABOLA = 1, SINE = 11, COSINE = 32 };

// f and f' at a·u + b for a curve in each lane, at every point u. Values outside of a function's domain mean nothing.
void tabulate_symbol(int symbol, const double* u, int64_t points, Wide a, Wide b, Wide* f, Wide* slope);

// Run use(function, a, b, y) for vectors of pairs of one function, y (S, WIDE); its three numbers are the results (3, P).
template <class Use>
void each_vector(const PairArguments& c, Use use) {
  constexpr int64_t TASK = 32 * WIDE;  // pairs
  parallel((c.num_pairs + TASK - 1) / TASK, c.threads, [&](int64_t task) {
    Buffer<double> y(c.num_points * WIDE);
    const int64_t end = std::min(c.num_pairs, (task + 1) * TASK);
    int64_t first = task * TASK, alive;
    for (; first < end; first += alive) {
      for (alive = 1; alive < WIDE && first + alive < end && c.functions[first + alive] == c.functions[first];) alive++;
      Wide a, b, results[3];
      for (int lane = 0; lane < WIDE; lane++) {
        const int64_t pair = first + std::min<int64_t>(lane, alive - 1);
        const double* row = c.curves + c.rows[pair] * c.num_points;
        for (int64_t s = 0; s < c.num_points; s++) y[s * WIDE + lane] = row[s];
        a[lane] = c.params[pair], b[lane] = c.params[c.num_pairs + pair];
      }
      use(Function(c.table + 5 * c.functions[first]), a, b, y.data, results);
      for (int lane = 0; lane < alive; lane++)
        for (int k = 0; k < 3; k++) c.results[k * c.num_pairs + first + lane] = results[k][lane];
    }
  });
}
