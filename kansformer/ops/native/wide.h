// One vector register of float64 numbers and the functions that name curves, to about 1e-15: PyTorch's own take a pass
// over memory each. Nothing here calls the C library, whose exp and log are tied to new versions of Linux.
#pragma once

#include "lanes.h"

constexpr int WIDE = LANES / 2;
typedef double Wide __attribute__((vector_size(8 * WIDE)));
typedef int64_t WideInt __attribute__((vector_size(8 * WIDE)));
typedef double WideInMemory __attribute__((vector_size(8 * WIDE), aligned(8), may_alias));

INLINE Wide load(const double* p) { return *reinterpret_cast<const WideInMemory*>(p); }
INLINE Wide wide(double value) { return value - Wide{}; }
INLINE Wide pick(WideInt condition, Wide yes, Wide no) { return condition ? yes : no; }
INLINE Wide smaller(Wide a, Wide b) { return pick(a < b, a, b); }  // b where one is NaN, as does `larger`
INLINE Wide larger(Wide a, Wide b) { return pick(a > b, a, b); }
INLINE Wide clamped(Wide v, double lower, double upper) { return larger(wide(lower), smaller(wide(upper), v)); }
INLINE Wide absolute(Wide v) { return pick(v < 0.0, -v, v); }
INLINE Wide sign(Wide v) { return pick(v > 0.0, wide(1), pick(v < 0.0, wide(-1), v)); }
INLINE Wide step(Wide v) { return pick(v > 0.0, wide(1), Wide{}); }
INLINE Wide square(Wide v) { return v * v; }
INLINE Wide square_root(Wide v) {
  for (int lane = 0; lane < WIDE; lane++) v[lane] = std::sqrt(v[lane]);
  return v;
}

// factors[0] x^(COUNT - 1) + … + factors[COUNT - 1]
template <int COUNT>
INLINE Wide polynomial(Wide x, const double (&factors)[COUNT]) {
  Wide total = wide(factors[0]);
#pragma GCC unroll 16
  for (int k = 1; k < COUNT; k++) total = total * x + factors[k];
  return total;
}

constexpr double ROUNDS = 6755399441055744.;  // 1.5 · 2^52: a number added to it loses its fraction
constexpr double PI = 3.14159265358979323846;

INLINE Wide exponential(Wide x) {
  constexpr double TAYLOR[] = {1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800, 1. / 362880, 1. / 40320,
                               1. / 5040,       1. / 720,       1. / 120,      1. / 24,      1. / 6,      0.5,
                               1.,              1.};
  x = clamped(x, -708, 709);
  const Wide shifted = x * 1.4426950408889634 + ROUNDS, n = shifted - ROUNDS;
  const Wide r = x - n * 6.93147180369123816490e-01 - n * 1.90821492927058770002e-10;  // ln 2 in two parts
  return reinterpret_cast<Wide>(reinterpret_cast<WideInt>(polynomial(r, TAYLOR)) +
                                (reinterpret_cast<WideInt>(shifted) << 52));
}

// Of positive normal numbers: x = m · 2^n, m from sqrt(1/2) to sqrt(2), and log m = 2 artanh((m - 1) / (m + 1)).
INLINE Wide logarithm(Wide x) {
  constexpr double SERIES[] = {2. / 21, 2. / 19, 2. / 17, 2. / 15, 2. / 13, 2. / 11, 2. / 9, 2. / 7, 2. / 5, 2. / 3};
  constexpr int64_t ROOT = 0x3fe6a09e667f3bcd, MANTISSA = 0x000fffffffffffff;  // sqrt(1/2)
  const WideInt bits = reinterpret_cast<WideInt>(x) - ROOT, exponent = bits >> 52;
  const Wide m = reinterpret_cast<Wide>((bits & MANTISSA) + ROOT);
  // An exponent added to the bits of ROUNDS is that number added to it.
  const Wide n = reinterpret_cast<Wide>(exponent + int64_t(0x4338000000000000)) - ROUNDS;
  const Wide s = (m - 1.0) / (m + 1.0), ss = s * s;
  return n * 6.93147180369123816490e-01 + (n * 1.90821492927058770002e-10 + (s * ss * polynomial(ss, SERIES) + 2.0 * s));
}

INLINE Wide logarithm_of_1_plus(Wide x) {  // keeps an x that 1 + x loses
  const Wide sum = 1.0 + x;
  return logarithm(sum) + (x - (sum - 1.0)) / sum;
}

INLINE void sine_cosine(Wide x, Wide& sine, Wide& cosine) {
  constexpr double SINE[] = {1. / 355687428096000, -1. / 1307674368000, 1. / 6227020800, -1. / 39916800,
                             1. / 362880,          -1. / 5040,          1. / 120,        -1. / 6};
  constexpr double COSINE[] = {1. / 20922789888000, -1. / 87178291200, 1. / 479001600, -1. / 3628800,
                               1. / 40320,          -1. / 720,         1. / 24,        -0.5};
  const Wide shifted = x * (2 / PI) + ROUNDS, n = shifted - ROUNDS;
  // π/2 in three parts, the first two of 33 bits
  const Wide r =
      x - n * 1.57079632673412561417e+00 - n * 6.07710050630396597660e-11 - n * 2.02226624879595063154e-21;
  const Wide rr = r * r, s = r + r * rr * polynomial(rr, SINE), c = 1.0 + rr * polynomial(rr, COSINE);
  const WideInt quarter = reinterpret_cast<WideInt>(shifted), swaps = (quarter & 1) != 0;
  sine = pick(swaps, c, s), cosine = pick(swaps, s, c);
  sine = pick((quarter & 2) != 0, -sine, sine), cosine = pick(((quarter + 1) & 2) != 0, -cosine, cosine);
}

// Rational approximations of Cephes (Moshier), as is the error function's.
INLINE Wide arctangent(Wide x) {
  constexpr double P[] = {-8.750608600031904122785e-1, -1.615753718733365076637e1, -7.500855792314704667340e1,
                          -1.228866684490136173410e2, -6.485021904942025371773e1};
  constexpr double Q[] = {1., 2.485846490142306297962e1, 1.650270098316988542046e2, 4.328810604912902668951e2,
                          4.853903996359136964868e2, 1.945506571482613964425e2};
  const Wide size = absolute(x);
  const WideInt large = size > 2.41421356237309504880, middle = size > 0.66;
  const Wide t = pick(large, wide(-1), pick(middle, size - 1.0, size)) / pick(large, size, pick(middle, size + 1.0, wide(1)));
  const Wide tt = t * t;
  const Wide angle = pick(large, wide(PI / 2), pick(middle, wide(PI / 4), Wide{})) +
                     (t + t * tt * polynomial(tt, P) / polynomial(tt, Q));
  return pick(x < 0.0, -angle, angle);
}

// The angle of the point (x, y), but for a multiple of 2π.
INLINE Wide angle_of(Wide y, Wide x) {
  const Wide angle = arctangent(y / x) + pick(x < 0.0, wide(PI), Wide{});
  return pick((x == 0.0) & (y == 0.0), Wide{}, angle);
}

INLINE Wide error_function(Wide x) {
  constexpr double T[] = {9.60497373987051638749e0, 9.00260197203842689217e1, 2.23200534594684319226e3,
                          7.00332514112805075473e3, 5.55923013010394962768e4};
  constexpr double U[] = {1., 3.35617141647503099647e1, 5.21357949780152679795e2, 4.59432382970980127987e3,
                          2.26290000613890934246e4, 4.92673942608635921086e4};
  constexpr double P[] = {2.46196981473530512524e-10, 5.64189564831068821977e-1, 7.46321056442269912687e0,
                          4.86371970985681366614e1,   1.96520832956077098242e2,  5.26445194995477358631e2,
                          9.34528527171957607540e2,   1.02755188689515710272e3,  5.57535335369399327526e2};
  constexpr double Q[] = {1.,
                          1.32281951154744992508e1, 8.67072140885989742329e1, 3.54937778887819891062e2,
                          9.75708501743205489753e2, 1.82390916687909736289e3, 2.24633760818710981792e3,
                          1.65666309194161350182e3, 5.57535340817727675546e2};
  const Wide size = smaller(absolute(x), wide(6)), xx = size * size;
  const Wide inner = size * polynomial(xx, T) / polynomial(xx, U);
  const Wide outer = 1.0 - exponential(-xx) * polynomial(size, P) / polynomial(size, Q);
  const Wide value = pick(size < 1.0, inner, outer);
  return pick(x < 0.0, -value, value);
}

INLINE Wide logistic(Wide x) { return 1.0 / (1.0 + exponential(-x)); }
INLINE Wide hyperbolic_tangent(Wide x) {
  const Wide e = exponential(-2.0 * absolute(x)), value = (1.0 - e) / (1.0 + e);
  return pick(x < 0.0, -value, value);
}
