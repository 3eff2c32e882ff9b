// The functions that curves are named after, and their slopes: a row per symbol of `kansformer.symbolic.library`, in the
// order of `SYMBOLS` in symbols.py.
#include "symbols.h"

namespace {

template <class Function>
INLINE void tabulate(const double* u, int64_t points, Wide a, Wide b, Wide* f, Wide* slope, Function function) {
  for (int64_t s = 0; s < points; s++) function(a * u[s] + b, f[s], slope[s]);
}

}  // namespace

void tabulate_symbol(int symbol, const double* u, int64_t points, Wide a, Wide b, Wide* f, Wide* slope) {
#define ROW(number, ...)                                                                     \
  case number:                                                                               \
    return tabulate(u, points, a, b, f, slope, [](Wide z, Wide& f, Wide& g) { __VA_ARGS__; })
  constexpr double BOUND = 60;  // EXPONENT_BOUND of the library
  switch (symbol) {
    ROW(0, f = z, g = wide(1));                                                       // x
    ROW(PARABOLA, f = z * z, g = 2.0 * z);                                            // x^2
    ROW(2, f = z * z * z, g = 3.0 * z * z);                                           // x^3
    ROW(3, f = square(z * z), g = 4.0 * z * z * z);                                   // x^4
    ROW(4, f = 1.0 / z, g = -f * f);                                                  // 1/x
    ROW(5, const Wide r = 1.0 / z; f = r * r, g = -2.0 * f * r);                      // 1/x^2
    ROW(6, f = square_root(z), g = 0.5 / f);                                          // sqrt
    ROW(7, const Wide r = 1.0 / z; f = square_root(r), g = -0.5 * f * r);             // 1/sqrt(x)
    ROW(8, const Wide r = square_root(z); f = z * r, g = 1.5 * r);                    // x^1.5
    ROW(9, f = logarithm(z), g = 1.0 / z);                                            // log
    ROW(10, f = exponential(smaller(wide(BOUND), z)), g = f);                         // exp
    ROW(SINE, sine_cosine(z, f, g));                                                  // sin
    ROW(12, Wide s; Wide c; sine_cosine(z, s, c), f = s / c, g = 1.0 + f * f);        // tan
    ROW(13, f = hyperbolic_tangent(z), g = 1.0 - f * f);                              // tanh
    ROW(14, f = exponential(-z * z), g = -2.0 * z * f);                               // gaussian
    ROW(15, f = arctangent(z), g = 1.0 / (1.0 + z * z));                              // arctan
    ROW(16, const Wide s = logistic(z); f = z * s, g = s + f * (1.0 - s));            // silu
    ROW(17, const Wide p = 0.5 * (1.0 + error_function(z * std::sqrt(0.5)));          // gelu
        f = z * p, g = p + z * exponential(-0.5 * z * z) * (1 / std::sqrt(2 * PI)));
    ROW(18, f = larger(z, Wide{}), g = step(z));                                      // relu
    ROW(19, f = absolute(z), g = sign(z));                                            // abs
    ROW(20, f = sign(z), g = Wide{});                                                 // sign
    ROW(21, const Wide r = larger(z, Wide{}); f = r * r, g = 2.0 * r);                // relu^2
    ROW(22, const Wide e = exponential(-absolute(z));                                 // softplus
        f = larger(z, Wide{}) + logarithm_of_1_plus(e), g = pick(z > 0.0, wide(1), e) / (1.0 + e));
    ROW(23, const Wide e = exponential(smaller(wide(40), z)); const Wide n = e * (e + 2.0);  // mish
        const Wide t = n / (n + 2.0); f = z * t, g = t + z * (1.0 - t * t) * (e / (1.0 + e)));
    ROW(24, f = error_function(z), g = 2 / std::sqrt(PI) * exponential(-z * z));      // erf
    ROW(25, const Wide e = exponential(smaller(Wide{}, z)); f = larger(z, Wide{}) + (e - 1.0), g = e);  // elu
    ROW(26, f = pick(z > 0.0, z, 0.01 * z), g = pick(z > 0.0, wide(1), wide(0.01)));  // leaky_relu
    ROW(27, f = z * clamped(z + 3.0, 0, 6) / 6.0,                                     // hardswish
        g = pick(absolute(z) < 3.0, (2.0 * z + 3.0) / 6.0, step(z)));
    ROW(28, f = clamped(z, -1, 1), g = step(1.0 - absolute(z)));                      // clip
    ROW(29, const Wide r = 1.0 / square_root(1.0 - z * z); f = arctangent(z * r), g = r);           // arcsin
    ROW(30, f = 0.5 * logarithm((1.0 + z) / (1.0 - z)), g = 1.0 / (1.0 - z * z));                   // arctanh
    ROW(31, const Wide e = exponential(clamped(z, -BOUND, BOUND)); const Wide r = 1.0 / e;          // cosh
        f = 0.5 * (e + r), g = 0.5 * (e - r));
    ROW(COSINE, Wide s; sine_cosine(z, s, f), g = -s);                                              // cos
    ROW(33, const Wide r = 1.0 / square_root(1.0 - z * z); f = PI / 2 - arctangent(z * r), g = -r);  // arccos
    ROW(34, const Wide e = exponential(clamped(z, -BOUND, BOUND)); const Wide r = 1.0 / e;          // sinh
        f = 0.5 * (e - r), g = 0.5 * (e + r));
    ROW(35, f = logistic(z), g = f * (1.0 - f));                                                    // sigmoid
    ROW(36, Wide s; Wide c; sine_cosine(z, s, c), f = z * c, g = c - z * s);                        // x*cos
  }
#undef ROW
}
