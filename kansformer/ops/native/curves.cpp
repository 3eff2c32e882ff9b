// One curve per channel, added to an activation and multiplied by a gate's other half, in one pass over memory:
//
//   forward     y = (base + s(x)) · factor                      base and factor are optional
//   backward    h = g · factor    ∂base = h    ∂factor = g · (base + s(x))
//               ∂x = h · s'(x)    ∂a_ic = Σ_n h B_c(x_ni)    ∂q_ik = Σ_n h ∂s/∂q_ik
//
// A vector holds neighbouring channels of one token. A B-spline picks the K + 1 coefficients that are alive by
// comparing the interval of every lane with each interval of the grid. Sums over tokens are kept per BLOCK tokens and
// then added up: longer sums lose digits.
//
// x, base, factor, y, g (N, I), coefficients a (I, C), denominator q (I, D), domain (I, 2), contiguous float32.
#include "common.h"

namespace {

constexpr int CHANNELS = 4 * LANES;  // channels that a task handles
constexpr int BLOCK = 512;           // tokens in a sum
constexpr int MOST_COEFFICIENTS = 72;
constexpr int MOST_DENOMINATORS = 8;

typedef int IntVector __attribute__((vector_size(4 * LANES)));
typedef float Lanes __attribute__((vector_size(4 * LANES)));

inline Lanes all(float value) { return value - Lanes{}; }
inline Lanes pick(IntVector condition, Lanes yes, Lanes no) { return condition ? yes : no; }
inline Lanes absolute(Lanes v) { return pick(v < 0.f, -v, v); }
inline Lanes sign(Lanes v) { return pick(v > 0.f, all(1.f), pick(v < 0.f, all(-1.f), v)); }  // NaN stays

// The curves of a task's channels: [parameter][channel].
struct Parameters {
  float coefficients[MOST_COEFFICIENTS][CHANNELS];
  float denominators[MOST_DENOMINATORS][CHANNELS];
  float lower[CHANNELS], width[CHANNELS];
};

struct Gradients {
  float coefficients[MOST_COEFFICIENTS][CHANNELS];
  float denominators[MOST_DENOMINATORS][CHANNELS];
};

struct Family {
  int grid, order, extrapolation, coefficients, denominators;
  const float* table;
};

// An input's place on the axis of its curve, in units of the domain.
struct Spot {
  Lanes near, beyond, moves, inside, width;

  Spot(Lanes x, const Parameters& p, int channel, int extrapolation) {
    width = load(p.width + channel);
    Lanes unit = (x - load(p.lower + channel)) / width;
    moves = pick(absolute(unit) < FARTHEST, all(1.f), all(0.f));
    unit = pick(unit > FARTHEST, all(FARTHEST), unit);
    unit = pick(unit < -FARTHEST, all(-FARTHEST), unit);
    near = pick(unit < 0.f, all(0.f), unit);
    near = pick(near > 1.f, all(1.f), near);
    beyond = extrapolation == LINEAR ? unit - near : all(0.f);
    inside = pick(near == unit, all(1.f), all(0.f));
    // A curve that does not go on has no slope outside; one that does has none beyond FARTHEST.
    if (extrapolation != LINEAR) moves = inside;
    if (extrapolation != ZERO) inside = all(1.f);
  }
};

template <int K>
struct BSpline {
  Segments<K> segments;
  const int grid;
  explicit BSpline(const Family& f) : segments(f.table), grid(f.grid) {}

  struct At {
    Lanes interval, position;
  };
  At locate(const Spot& spot) const {
    const Lanes scaled = spot.near * float(grid);
    const IntVector whole = __builtin_convertvector(scaled, IntVector);
    Lanes q = __builtin_convertvector(whole, Lanes);
    q = pick(q < grid - 1.f, q, all(grid - 1.f));
    q = pick(scaled >= 0.f, q, all(0.f));
    return {q, scaled - q};
  }
  inline Lanes value(int j, Lanes t) const {
    Lanes total = all(segments.factor[j][K]);
    for (int p = K - 1; p >= 0; p--) total = total * t + segments.factor[j][p];
    return total;
  }
  inline Lanes slope(int j, Lanes t) const {  // by the unit coordinate
    Lanes total = all(K * grid * segments.factor[j][K]);
    for (int p = K - 1; p >= 1; p--) total = total * t + p * grid * segments.factor[j][p];
    return total;
  }
  inline void curve(const Parameters& p, int channel, const Spot& spot, Lanes* s, Lanes* ds) const {
    const At at = locate(spot);
    Lanes alive[K + 1] = {};
    for (int q = 0; q < grid; q++) {
      const IntVector here = at.interval == float(q);
      for (int k = 0; k <= K; k++) alive[k] = pick(here, load(p.coefficients[q + k] + channel), alive[k]);
    }
    Lanes value_sum = {}, slope_sum = {};
    for (int k = 0; k <= K; k++) {
      value_sum += alive[k] * value(k, at.position);
      slope_sum += alive[k] * slope(k, at.position);
    }
    *s = value_sum, *ds = slope_sum;
  }
  inline void gradients(const Parameters&, int channel, const Spot& spot, Lanes h, Gradients& sums) const {
    const At at = locate(spot);
    Lanes share[K + 1];
    for (int k = 0; k <= K; k++) share[k] = h * (value(k, at.position) + slope(k, at.position) * spot.beyond);
    for (int q = 0; q < grid; q++) {
      const IntVector here = at.interval == float(q);
      for (int k = 0; k <= K; k++) {
        float* sum = sums.coefficients[q + k] + channel;
        store(sum, load(sum) + pick(here, share[k], Lanes{}));
      }
    }
  }
};

struct Chebyshev {  // Σ a_k T_k(z), T_k' = k U_{k-1}, z = 2 · unit - 1
  const int order;
  explicit Chebyshev(const Family& f) : order(f.order) {}

  template <class Use>  // use(k, T_k, dT_k / d unit)
  inline void each(const Spot& spot, Use use) const {
    const Lanes z = 2.f * spot.near - 1.f;
    Lanes t_before = all(1.f), t = z, u_before = {}, u = all(1.f);
    use(0, all(1.f), Lanes{});
    for (int k = 1; k <= order; k++) {
      use(k, t, 2.f * k * u);
      const Lanes t_next = 2.f * z * t - t_before, u_next = 2.f * z * u - u_before;
      t_before = t, t = t_next, u_before = u, u = u_next;
    }
  }
  inline void curve(const Parameters& p, int channel, const Spot& spot, Lanes* s, Lanes* ds) const {
    Lanes value = {}, slope = {};
    each(spot, [&](int k, Lanes t, Lanes dt) {
      const Lanes a = load(p.coefficients[k] + channel);
      value += a * t, slope += a * dt;
    });
    *s = value, *ds = slope;
  }
  inline void gradients(const Parameters&, int channel, const Spot& spot, Lanes h, Gradients& sums) const {
    each(spot, [&](int k, Lanes t, Lanes dt) {
      float* sum = sums.coefficients[k] + channel;
      store(sum, load(sum) + h * (t + dt * spot.beyond));
    });
  }
};

struct Rational {  // P(z) / (1 + |Q(z)|), Q(z) = Σ_{k ≥ 1} q_k z^k, z = 2 · unit - 1
  const int order, denominators;
  explicit Rational(const Family& f) : order(f.order), denominators(f.denominators) {}

  struct At {
    Lanes z, p, dp, q_sign, dq, inverse;  // derivatives by z; inverse = 1 / (1 + |Q|)
  };
  inline At locate(const Parameters& p, int channel, const Spot& spot) const {
    At at;
    at.z = 2.f * spot.near - 1.f;
    at.p = load(p.coefficients[order] + channel), at.dp = Lanes{};
    for (int k = order - 1; k >= 0; k--) {
      at.dp = at.dp * at.z + at.p;
      at.p = at.p * at.z + load(p.coefficients[k] + channel);
    }
    Lanes q = {};
    at.dq = Lanes{};
    for (int k = denominators; k >= 0; k--) {
      at.dq = at.dq * at.z + q;
      q = q * at.z + (k ? Lanes(load(p.denominators[k - 1] + channel)) : Lanes{});
    }
    at.q_sign = sign(q);
    at.inverse = 1.f / (1.f + absolute(q));
    return at;
  }
  inline void curve(const Parameters& p, int channel, const Spot& spot, Lanes* s, Lanes* ds) const {
    const At at = locate(p, channel, spot);
    *s = at.p * at.inverse;
    *ds = 2.f * at.inverse * (at.dp - at.p * at.q_sign * at.dq * at.inverse);
  }
  inline void gradients(const Parameters& p, int channel, const Spot& spot, Lanes h, Gradients& sums) const {
    const At at = locate(p, channel, spot);
    const Lanes far = 2.f * spot.beyond, fall = at.q_sign * at.dq * at.inverse;
    Lanes power = h * at.inverse, lower_power = {};  // h z^k / S and h z^(k-1) / S
    for (int k = 0; k <= order; k++) {
      float* sum = sums.coefficients[k] + channel;
      store(sum, load(sum) + power + far * (float(k) * lower_power - power * fall));
      lower_power = power, power *= at.z;
    }
    const Lanes scale = -h * at.q_sign * at.inverse * at.inverse;
    power = at.z, lower_power = all(1.f);
    for (int k = 1; k <= denominators; k++) {
      float* sum = sums.denominators[k - 1] + channel;
      const Lanes slope = at.dp * power + at.p * (float(k) * lower_power - 2.f * fall * power);
      store(sum, load(sum) + scale * (at.p * power + far * slope));
      lower_power = power, power *= at.z;
    }
  }
};

struct Call {
  float *y, *dx, *dbase, *dfactor, *dcoefficients, *ddenominators;
  const float *gradient, *base, *factor, *x, *coefficients, *denominators, *domain;
  int64_t tokens, inputs;
};

// The LANES channels from `channel` on of one row; lanes that do not exist read as zero.
inline Lanes read(const float* row, int channel, int alive) {
  if (channel + LANES <= alive) return load(row + channel);
  Lanes v = {};
  for (int lane = 0; channel + lane < alive; lane++) v[lane] = row[channel + lane];
  return v;
}
inline void write(float* row, Lanes v, int channel, int alive) {
  if (channel + LANES <= alive) return store(row + channel, v);
  for (int lane = 0; channel + lane < alive; lane++) row[channel + lane] = v[lane];
}

template <class Basis>
void run(const Call& c, const Family& family, int threads) {
  const Basis basis(family);
  const int64_t blocks = (c.inputs + CHANNELS - 1) / CHANNELS;
  const bool backward = c.gradient != nullptr;
  // Backward adds up over tokens, so a task has all of them; forward may be cut along the tokens as well.
  const int64_t cuts = backward ? 1 : std::max<int64_t>(1, std::min<int64_t>((c.tokens + 63) / 64, threads / blocks));
  const int64_t per_cut = (c.tokens + cuts - 1) / cuts;
  parallel(blocks * cuts, threads, [&](int64_t task) {
    const int64_t first = task / cuts * CHANNELS, begin = task % cuts * per_cut;
    const int64_t end = std::min(begin + per_cut, c.tokens);
    const int alive = int(std::min<int64_t>(CHANNELS, c.inputs - first));
    Parameters p;
    for (int i = 0; i < CHANNELS; i++) {
      const int64_t channel = first + std::min(i, alive - 1);
      for (int k = 0; k < family.coefficients; k++)
        p.coefficients[k][i] = c.coefficients[channel * family.coefficients + k];
      for (int k = 0; k < family.denominators; k++)
        p.denominators[k][i] = c.denominators[channel * family.denominators + k];
      p.lower[i] = c.domain[2 * channel];
      p.width[i] = c.domain[2 * channel + 1] - p.lower[i];
    }
    if (!backward) {
      for (int64_t n = begin; n < end; n++) {
        const int64_t row = n * c.inputs + first;
        for (int i = 0; i < alive; i += LANES) {
          const Spot spot(read(c.x + row, i, alive), p, i, family.extrapolation);
          Lanes s, ds;
          basis.curve(p, i, spot, &s, &ds);
          s = (s + ds * spot.beyond) * spot.inside;
          if (c.base) s = read(c.base + row, i, alive) + s;
          if (c.factor) s = s * read(c.factor + row, i, alive);
          write(c.y + row, s, i, alive);
        }
      }
      return;
    }
    Gradients totals, sums;
    const bool learns = c.dcoefficients || c.ddenominators;
    std::memset(&totals, 0, sizeof(totals));
    for (int64_t n0 = 0; n0 < c.tokens; n0 += BLOCK) {
      if (learns) {
        std::memset(sums.coefficients, 0, sizeof(sums.coefficients[0]) * family.coefficients);
        std::memset(sums.denominators, 0, sizeof(sums.denominators));
      }
      for (int64_t n = n0; n < std::min(n0 + BLOCK, c.tokens); n++) {
        const int64_t row = n * c.inputs + first;
        for (int i = 0; i < alive; i += LANES) {
          const Spot spot(read(c.x + row, i, alive), p, i, family.extrapolation);
          Lanes h = read(c.gradient + row, i, alive);
          if (c.dx || c.dfactor) {
            Lanes s, ds;
            basis.curve(p, i, spot, &s, &ds);
            if (c.dfactor) {
              s = (s + ds * spot.beyond) * spot.inside;
              if (c.base) s = read(c.base + row, i, alive) + s;
              write(c.dfactor + row, h * s, i, alive);
            }
            if (c.factor) h *= read(c.factor + row, i, alive);
            if (c.dx) write(c.dx + row, h * ds * spot.moves / spot.width, i, alive);
          } else if (c.factor) {
            h *= read(c.factor + row, i, alive);
          }
          if (c.dbase) write(c.dbase + row, h, i, alive);
          if (learns) basis.gradients(p, i, spot, h * spot.inside, sums);
        }
      }
      if (learns) {
        for (int k = 0; k < family.coefficients; k++)
          for (int i = 0; i < CHANNELS; i++) totals.coefficients[k][i] += sums.coefficients[k][i];
        for (int k = 0; k < family.denominators; k++)
          for (int i = 0; i < CHANNELS; i++) totals.denominators[k][i] += sums.denominators[k][i];
      }
    }
    for (int i = 0; i < alive; i++) {
      if (c.dcoefficients)
        for (int k = 0; k < family.coefficients; k++)
          c.dcoefficients[(first + i) * family.coefficients + k] = totals.coefficients[k][i];
      if (c.ddenominators)
        for (int k = 0; k < family.denominators; k++)
          c.ddenominators[(first + i) * family.denominators + k] = totals.denominators[k][i];
    }
  });
}

void dispatch(int basis, const Call& call, const Family& family, int threads) {
  if (basis == 1) return run<Chebyshev>(call, family, threads);
  if (basis == 2) return run<Rational>(call, family, threads);
  switch (family.order) {
    case 1: return run<BSpline<1>>(call, family, threads);
    case 2: return run<BSpline<2>>(call, family, threads);
    case 3: return run<BSpline<3>>(call, family, threads);
    case 4: return run<BSpline<4>>(call, family, threads);
    case 5: return run<BSpline<5>>(call, family, threads);
  }
}

}  // namespace

// basis: 0 B-spline, 1 Chebyshev, 2 rational. Pointers to what is absent or not wanted are null.
EXPORT void curves_forward(float* y, const float* base, const float* factor, const float* x, const float* coefficients,
                           const float* denominators, const float* domain, const float* table, int64_t tokens,
                           int64_t inputs, int num_coefficients, int num_denominators, int basis, int grid, int order,
                           int extrapolation, int threads) {
  Call call{};
  call.y = y, call.base = base, call.factor = factor, call.x = x, call.coefficients = coefficients;
  call.denominators = denominators, call.domain = domain, call.tokens = tokens, call.inputs = inputs;
  dispatch(basis, call, {grid, order, extrapolation, num_coefficients, num_denominators, table}, threads);
}

EXPORT void curves_backward(float* dx, float* dbase, float* dfactor, float* dcoefficients, float* ddenominators,
                            const float* gradient, const float* base, const float* factor, const float* x,
                            const float* coefficients, const float* denominators, const float* domain,
                            const float* table, int64_t tokens, int64_t inputs, int num_coefficients,
                            int num_denominators, int basis, int grid, int order, int extrapolation, int threads) {
  Call call{};
  call.dx = dx, call.dbase = dbase, call.dfactor = dfactor, call.dcoefficients = dcoefficients;
  call.ddenominators = ddenominators, call.gradient = gradient, call.base = base, call.factor = factor, call.x = x;
  call.coefficients = coefficients, call.denominators = denominators, call.domain = domain;
  call.tokens = tokens, call.inputs = inputs;
  dispatch(basis, call, {grid, order, extrapolation, num_coefficients, num_denominators, table}, threads);
}
