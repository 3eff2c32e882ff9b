// c and d of curves c·f(a·u + b) + d by least squares on the points of the fit, and R² on the others:
//
//   c = Σ (f - mean f)(y - mean y) / Σ (f - mean f)²    d = mean y - c · mean f    over the points of the fit
//   R² = 1 - Σ (y - c·f - d)² / Σ (y - their mean)²                                 over the others
//
// Where a curve hardly varies on the few others, its variance on all points is the measure. All in float64.
//
// curves y (E, S), points u (S), params a and b (2, P), results c, d and R² (3, P), contiguous float64.
#include "symbols.h"

EXPORT int symbols_judge(const PairArguments* arguments) {
  if (arguments->size != sizeof(PairArguments)) return 1;
  const PairArguments& c = *arguments;
  double others = 0;
  for (int64_t s = 0; s < c.num_points; s++) others += c.held_out[s];
  const double all = double(c.num_points), fitted = all - others;
  each_vector(c, [&](const Function& function, Wide a, Wide b, const double* curves, Wide* results) {
    Buffer<Wide> f(c.num_points), g(c.num_points);
    tabulate_symbol(function.symbol, c.points, c.num_points, a, b, f.data, g.data);
    Wide sum_f = {}, sum_y = {}, unseen_y = {};
    for (int64_t s = 0; s < c.num_points; s++) {
      const Wide z = a * c.points[s] + b, y = load(curves + s * WIDE);
      f[s] = pick((z > function.lower) & (z < function.upper), f[s], wide(NAN));
      sum_f += c.held_out[s] ? Wide{} : f[s], (c.held_out[s] ? unseen_y : sum_y) += y;
    }
    const Wide mean_f = sum_f / fitted, mean_y = sum_y / fitted;
    const Wide mean_unseen = unseen_y / others, mean_all = (sum_y + unseen_y) / all;
    Wide ff = {}, fy = {}, unseen_spread = {}, spread = {};
    for (int64_t s = 0; s < c.num_points; s++) {
      const Wide y = load(curves + s * WIDE), value = f[s] - mean_f;
      spread += square(y - mean_all);
      if (c.held_out[s])
        unseen_spread += square(y - mean_unseen);
      else
        ff += value * value, fy += value * (y - mean_y);
    }
    const Wide scale = pick(ff == 0.0, Wide{}, fy / ff), shift = mean_y - scale * mean_f;
    Wide residual = {};
    for (int64_t s = 0; s < c.num_points; s++)
      if (c.held_out[s]) residual += square(load(curves + s * WIDE) - (scale * f[s] + shift));
    const Wide measure = larger(larger(unseen_spread, spread * (others / all)), wide(2.2250738585072014e-308));
    results[0] = scale, results[1] = shift, results[2] = 1.0 - residual / measure;
  });
  return 0;
}
