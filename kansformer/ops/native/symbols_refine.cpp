// Curves c·f(a·u + b) + d fitted by variable projection, as symbolic/refine.py defines it: Levenberg-Marquardt steps move
// a and b, and c and d follow in closed form. With F = f(a·u + b), G = f' there, y a centred curve of length 1, and
// everything centred:
//
//   R² = (F·y)² / (F·F)    c = F·y / F·F    J = the parts of u·G and G that are orthogonal to F    J'J δ = J'y / c
//
// A lane is a pair of a curve and a function; a vector of pairs stays in the cache for all of its steps. All in float64.
//
// curves y (E, S), points u (S), params a and b to begin with (2, P), results a, b and R² (3, P), contiguous float64.
#include "symbols.h"

namespace {

constexpr double FIRST_DAMPING = 1e-3, LESS = 0.2, MORE = 8.0;
constexpr double MAX_SCALE_STEP = 0.5;  // relative to a
constexpr double MAX_SHIFT_STEP = 3.0;
constexpr double TINY = 1e-30;
constexpr double MAX_VERTEX = 100;  // of a parabola

// What is known at one (a, b): then c, the slopes of R² and the matrix of the step.
struct State {
  Wide a, b, r2, c, slope_a = {}, slope_b = {}, aa = {}, ab = {}, bb = {};

  void replace(WideInt where, const State& o) {
    a = pick(where, o.a, a), b = pick(where, o.b, b), r2 = pick(where, o.r2, r2), c = pick(where, o.c, c);
    slope_a = pick(where, o.slope_a, slope_a), slope_b = pick(where, o.slope_b, slope_b);
    aa = pick(where, o.aa, aa), ab = pick(where, o.ab, ab), bb = pick(where, o.bb, bb);
  }
};

// A vector of curves that are fitted by one function.
struct Problem {
  const Function& function;
  const double* u;
  const int64_t points;
  const double* y;  // (S, WIDE)
  Wide *f, *g;      // room for values and slopes, (S,)

  State at(Wide a, Wide b) const {
    tabulate_symbol(function.symbol, u, points, a, b, f, g);
    Wide sum_f = {}, sum_g = {}, sum_ug = {};
    for (int64_t s = 0; s < points; s++) sum_f += f[s], sum_g += g[s], sum_ug += u[s] * g[s];
    const Wide mean_f = sum_f / double(points), mean_g = sum_g / double(points), mean_ug = sum_ug / double(points);
    Wide ff = {}, fy = {}, fg = {}, fug = {};
    for (int64_t s = 0; s < points; s++) {
      const Wide centred = f[s] = f[s] - mean_f;
      ff += centred * centred, fy += centred * load(y + s * WIDE);
      fg += centred * (g[s] - mean_g), fug += centred * (u[s] * g[s] - mean_ug);
    }
    ff = larger(ff, wide(TINY));
    const Wide along_a = fug / ff, along_b = fg / ff;
    State now;
    now.a = a, now.b = b, now.r2 = fy * fy / ff, now.c = fy / ff;
    for (int64_t s = 0; s < points; s++) {
      const Wide part_a = u[s] * g[s] - mean_ug - along_a * f[s], part_b = g[s] - mean_g - along_b * f[s];
      now.slope_a += part_a * load(y + s * WIDE), now.slope_b += part_b * load(y + s * WIDE);
      now.aa += part_a * part_a, now.ab += part_a * part_b, now.bb += part_b * part_b;
    }
    const Wide reach = absolute(a), infinity = wide(HUGE_VAL);
    const WideInt inside = (b - reach > function.lower) & (b + reach < function.upper);
    now.r2 = pick(inside & (now.r2 < infinity), now.r2, wide(-1));  // NaN is not smaller
    return now;
  }

  // What to add to b, from the best combination p·f + q·g of the function and its slope.
  Wide shift_by_partner(Wide a, Wide b) const {
    tabulate_symbol(function.symbol, u, points, a, b, f, g);
    Wide sum_f = {}, sum_g = {};
    for (int64_t s = 0; s < points; s++) sum_f += f[s], sum_g += g[s];
    const Wide mean_f = sum_f / double(points), mean_g = sum_g / double(points);
    Wide ff = {}, fg = {}, gg = {}, fy = {}, gy = {};
    for (int64_t s = 0; s < points; s++) {
      const Wide value = f[s] - mean_f, slope = g[s] - mean_g;
      ff += value * value, fg += value * slope, gg += slope * slope, fy += value * load(y + s * WIDE), gy += slope * load(y + s * WIDE);
    }
    const Wide p = gg * fy - fg * gy, q = ff * gy - fg * fy;  // times their determinant
    if (function.symbol == PARABOLA) {                        // (u + q/p)² = u² + 2u·q/p and a constant
      const Wide shift = q / p;
      return pick(shift == shift, clamped(shift, -MAX_VERTEX, MAX_VERTEX), Wide{});
    }
    return angle_of(q, p);
  }

  State refined(Wide a, Wide b, int steps) const {
    if (function.symbol == PARABOLA || function.symbol == SINE || function.symbol == COSINE)
      b += shift_by_partner(a, b);
    State now = at(a, b);
    Wide damping = wide(FIRST_DAMPING);
    if (!function.fits_a && !function.fits_b) return now;
    for (int step = 0; step < steps; step++) {
      Wide delta_a, delta_b;
      find_step(now, damping, delta_a, delta_b);
      const State next = at(now.a + delta_a, now.b + delta_b);
      const WideInt better = next.r2 > now.r2;
      damping *= pick(better, wide(LESS), wide(MORE));
      now.replace(better, next);
    }
    return now;
  }

  // J = c·(projected slopes), so the normal equations are divided by c once.
  void find_step(const State& now, Wide damping, Wide& delta_a, Wide& delta_b) const {
    const Wide aa = larger(now.aa, wide(TINY)) * (1.0 + damping), bb = larger(now.bb, wide(TINY)) * (1.0 + damping);
    const Wide slope_a = now.slope_a / now.c, slope_b = now.slope_b / now.c;
    if (function.fits_a && function.fits_b) {
      const Wide determinant = larger(aa * bb - now.ab * now.ab, wide(TINY));
      delta_a = (bb * slope_a - now.ab * slope_b) / determinant;
      delta_b = (aa * slope_b - now.ab * slope_a) / determinant;
    } else {
      delta_a = function.fits_a ? slope_a / aa : Wide{}, delta_b = function.fits_b ? slope_b / bb : Wide{};
    }
    const Wide limit = MAX_SCALE_STEP * absolute(now.a);
    delta_a = pick(delta_a == delta_a, larger(-limit, smaller(limit, delta_a)), Wide{});
    delta_b = pick(delta_b == delta_b, clamped(delta_b, -MAX_SHIFT_STEP, MAX_SHIFT_STEP), Wide{});
  }
};

}  // namespace

EXPORT int symbols_refine(const PairArguments* arguments) {
  if (arguments->size != sizeof(PairArguments)) return 1;
  const PairArguments& c = *arguments;
  each_vector(c, [&](const Function& function, Wide a, Wide b, const double* y, Wide* results) {
    Buffer<Wide> f(c.num_points), g(c.num_points);
    const State fit = Problem{function, c.points, c.num_points, y, f.data, g.data}.refined(a, b, c.steps);
    results[0] = fit.a, results[1] = fit.b, results[2] = fit.r2;
  });
  return 0;
}
