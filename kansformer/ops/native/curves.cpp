// One curve per channel, added to an activation and multiplied by a gate's other half, in one pass over memory:
//
//   forward     y = (base + s(x)) · factor                      base and factor are optional
//   backward    h = g · factor    ∂base = h    ∂factor = g · (base + s(x))
//               where base is an activation σ(x), its slope joins that of s, and nothing of it is read:
//               ∂x = h · (σ'(x) + s'(x))    ∂a_ic = Σ_n h B_c(x_ni)    ∂q_ik = Σ_n h ∂s/∂q_ik
//
// A vector holds neighbouring channels of one token. A B-spline is one polynomial per interval of its grid, with two
// more intervals for what lies outside the domain; its factors are made once per call, and every lane picks those of its
// interval by comparing. Sums over tokens are kept per BLOCK tokens and then added up: longer sums lose digits.
//
// x, base, factor, y, g (N, I), coefficients a (I, C), denominator q (I, D), domain (I, 2), contiguous float32.
#include <memory>

#include "common.h"

namespace {

constexpr int CHANNELS = 4 * LANES;  // channels in a block, whose curves fit the innermost cache
constexpr int MOST_BLOCKS = 16;      // blocks of a task, whose curves fit the next one
constexpr int TILE = 16;             // tokens that a block does before the next has its turn
constexpr int SUMMED = 512;          // tokens in a sum, a multiple of TILE
constexpr int FEW = 4;               // tokens for which nothing is prepared
constexpr int64_t ALONE = 1 << 14;   // fewer numbers are done before a second thread has begun
typedef int IntVector __attribute__((vector_size(4 * LANES)));
typedef float Lanes __attribute__((vector_size(4 * LANES)));

inline Lanes all(float value) { return value - Lanes{}; }
inline Lanes pick(IntVector condition, Lanes yes, Lanes no) { return condition ? yes : no; }
inline Lanes absolute(Lanes v) { return pick(v < 0.f, -v, v); }
inline Lanes sign(Lanes v) { return pick(v > 0.f, all(1.f), pick(v < 0.f, all(-1.f), v)); }  // NaN stays

// What a task knows of its channels' curves, and the sums of the gradients: rows of CHANNELS numbers.
struct Parameters {
  const float *curve, *denominator, *lower, *inverse_width;
};
struct Sums {
  float *curve, *denominator;
};

struct Family {
  int grid, order, extrapolation, coefficients, denominators;
  const float* table;
};

inline void add(float* rows, int row, int channel, Lanes v) {
  float* place = rows + row * CHANNELS + channel;
  store(place, load(place) + v);
}
inline Lanes row_of(const float* rows, int row, int channel) { return load(rows + row * CHANNELS + channel); }

// An input's place on the axis of its curve, in units of the domain.
struct Spot {
  Lanes unit, near, moves, inside, inverse_width;

  Spot(Lanes x, const Parameters& p, int channel, int extrapolation) {
    inverse_width = load(p.inverse_width + channel);
    unit = (x - load(p.lower + channel)) * inverse_width;
    moves = pick(absolute(unit) < FARTHEST, all(1.f), all(0.f));
    unit = pick(unit > FARTHEST, all(FARTHEST), unit);
    unit = pick(unit < -FARTHEST, all(-FARTHEST), unit);
    near = pick(unit < 0.f, all(0.f), unit);
    near = pick(near > 1.f, all(1.f), near);
    inside = pick(near == unit, all(1.f), all(0.f));
    // A curve that does not go on has no slope outside; one that does has none beyond FARTHEST.
    if (extrapolation != LINEAR) moves = inside;
  }
};

// A family of curves is evaluated by `curve` (s and its derivative by the unit coordinate, outside the domain as well)
// and `gradients` (adds h ∂s to the sums). `rows` says how many rows it keeps of a curve, `take` fills them from the
// curve's coefficients, and `give` turns the sums of their gradients back into those of the coefficients.
template <int K>
struct BSpline {
  const Segments<K> segments;
  const int grid, coefficients, extrapolation;
  explicit BSpline(const Family& f)
      : segments(f.table), grid(f.grid), coefficients(f.coefficients), extrapolation(f.extrapolation) {}

  // Row (interval + 1) · (K + 1) + p holds the factor of t^p; interval -1 and G lie outside the domain.
  int rows() const { return (grid + 2) * (K + 1); }

  // use(row, coefficient, weight): every weight that is not zero in the step from coefficients to factors.
  template <class Use>
  void each_weight(Use use) const {
    for (int q = 0; q < grid; q++)
      for (int k = 0; k <= K; k++)
        for (int p = 0; p <= K; p++) use((q + 1) * (K + 1) + p, q + k, segments.factor[k][p]);
    if (extrapolation == ZERO) return;
    for (int k = 0; k <= K; k++) {  // the values at the ends: t = 1 left of the domain, t = 0 right of it
      float right = 0, right_slope = 0;
      for (int p = 0; p <= K; p++) right += segments.factor[k][p], right_slope += p * segments.factor[k][p];
      const float left_slope = extrapolation == LINEAR ? segments.factor[k][1] : 0.f;
      use(0, k, segments.factor[k][0] - left_slope);
      use(1, k, left_slope);
      use((grid + 1) * (K + 1), grid - 1 + k, right);
      if (extrapolation == LINEAR) use((grid + 1) * (K + 1) + 1, grid - 1 + k, right_slope);
    }
  }
  void take(float* rows, const float* a, int channel) const {
    for (int row = 0; row < this->rows(); row++) rows[row * CHANNELS + channel] = 0;
    each_weight([&](int row, int c, float weight) { rows[row * CHANNELS + channel] += weight * a[c]; });
  }
  void give(float* da, const float* rows, int channel) const {
    for (int c = 0; c < coefficients; c++) da[c] = 0;
    each_weight([&](int row, int c, float weight) { da[c] += weight * rows[row * CHANNELS + channel]; });
  }

  // s and ds without factors: for few tokens it costs less to look up the K + 1 coefficients of every lane, whose curves
  // are `stride` numbers apart.
  inline void curve_at_once(const float* a, int64_t stride, int alive, const Spot& spot, Lanes* s, Lanes* ds) const {
    const Lanes near = spot.near * float(grid);
    Lanes q = __builtin_convertvector(__builtin_convertvector(near, IntVector), Lanes);
    q = pick(q < grid - 1.f, q, all(grid - 1.f));
    q = pick(near == near, q, all(0.f));
    const Lanes t = near - q;
    const IntVector first = __builtin_convertvector(q, IntVector);
    float live[K + 1][LANES] = {};
    for (int lane = 0; lane < alive; lane++)
      for (int k = 0; k <= K; k++) live[k][lane] = a[lane * stride + first[lane] + k];
    Lanes value_sum = {}, slope_sum = {};
    for (int k = 0; k <= K; k++) {
      Lanes value = all(segments.factor[k][K]), slope = float(K) * value;
      for (int p = K - 1; p >= 0; p--) {
        value = value * t + segments.factor[k][p];
        if (p) slope = slope * t + p * segments.factor[k][p];
      }
      value_sum += load(live[k]) * value, slope_sum += load(live[k]) * slope;
    }
    *ds = slope_sum * float(grid);
    *s = extrapolation == LINEAR ? value_sum + *ds * (spot.unit - spot.near) : value_sum;
    if (extrapolation == ZERO) *s *= spot.inside;
  }

  struct At {
    Lanes interval, t;
  };
  inline At locate(const Spot& spot) const {
    const Lanes scaled = spot.unit * float(grid);
    const Lanes near = spot.near * float(grid);
    Lanes q = __builtin_convertvector(__builtin_convertvector(near, IntVector), Lanes);
    const Lanes last = all(extrapolation == LINEAR ? grid : grid - 1);  // else the end belongs to the domain
    q = pick(q < last, q, last);
    q = pick(scaled < 0.f, all(-1.f), q);
    q = pick(scaled > float(grid), all(grid), q);
    q = pick(scaled == scaled, q, all(0.f));
    return {q, scaled - q};
  }
  inline void curve(const Parameters& p, int channel, const Spot& spot, Lanes* s, Lanes* ds) const {
    const At at = locate(spot);
    Lanes f[K + 1] = {};
    const float* row = p.curve + channel;
    for (int q = -1; q <= grid; q++, row += (K + 1) * CHANNELS) {
      const IntVector here = at.interval == float(q);
      for (int k = 0; k <= K; k++) f[k] = pick(here, load(row + k * CHANNELS), f[k]);
    }
    Lanes value = f[K], slope = float(K) * f[K];
    for (int k = K - 1; k >= 0; k--) {
      value = value * at.t + f[k];
      if (k) slope = slope * at.t + float(k) * f[k];
    }
    *s = value, *ds = slope * float(grid);
  }
  inline void gradients(const Parameters&, int channel, const Spot& spot, Lanes h, Sums& sums) const {
    const At at = locate(spot);
    Lanes share[K + 1];
    share[0] = h, share[1] = h * at.t;
    // Outside there are no higher powers, and those of a far input would be infinite.
    for (int k = 2; k <= K; k++) share[k] = share[k - 1] * (at.t * spot.inside);
    float* row = sums.curve + channel;
    for (int q = -1; q <= grid; q++, row += (K + 1) * CHANNELS) {
      const IntVector here = at.interval == float(q);
      for (int k = 0; k <= K; k++) store(row + k * CHANNELS, load(row + k * CHANNELS) + pick(here, share[k], Lanes{}));
    }
  }
};

// A family of which a curve's rows are its coefficients, and which goes on outside the domain as its tangent.
struct Plain {
  const int coefficients, extrapolation;
  explicit Plain(const Family& f) : coefficients(f.coefficients), extrapolation(f.extrapolation) {}

  int rows() const { return coefficients; }
  void take(float* rows, const float* a, int channel) const {
    for (int c = 0; c < coefficients; c++) rows[c * CHANNELS + channel] = a[c];
  }
  void give(float* da, const float* rows, int channel) const {
    for (int c = 0; c < coefficients; c++) da[c] = rows[c * CHANNELS + channel];
  }
  inline Lanes beyond(const Spot& spot) const { return extrapolation == LINEAR ? spot.unit - spot.near : Lanes{}; }
  inline Lanes extended(Lanes s, Lanes ds, const Spot& spot) const {
    s = s + ds * beyond(spot);
    return extrapolation == ZERO ? s * spot.inside : s;
  }
  inline Lanes seen(Lanes h, const Spot& spot) const { return extrapolation == ZERO ? h * spot.inside : h; }
};

template <int ORDER>  // 0: known at run time only
struct Chebyshev : Plain {  // Σ a_k T_k(z), T_k' = k U_{k-1}, z = 2 · unit - 1
  const int any_order;
  explicit Chebyshev(const Family& f) : Plain(f), any_order(f.order) {}

  template <class Use>  // use(k, T_k, dT_k / d unit)
  inline void each(const Spot& spot, Use use) const {
    const int order = ORDER ? ORDER : any_order;
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
      const Lanes a = row_of(p.curve, k, channel);
      value += a * t, slope += a * dt;
    });
    *s = extended(value, slope, spot), *ds = slope;
  }
  inline void gradients(const Parameters&, int channel, const Spot& spot, Lanes h, Sums& sums) const {
    h = seen(h, spot);
    const Lanes far = beyond(spot);
    each(spot, [&](int k, Lanes t, Lanes dt) { add(sums.curve, k, channel, h * (t + dt * far)); });
  }
};

template <int ORDER>  // 0: known at run time only
struct Rational : Plain {  // P(z) / (1 + |Q(z)|), Q(z) = Σ_{k ≥ 1} q_k z^k, z = 2 · unit - 1
  const int any_order;
  explicit Rational(const Family& f) : Plain(f), any_order(f.order) {}
  inline int order() const { return ORDER ? ORDER : any_order; }
  inline int denominators() const { return order() > 1 ? order() - 1 : 1; }

  struct At {
    Lanes z, p, dp, q_sign, dq, inverse;  // derivatives by z; inverse = 1 / (1 + |Q|)
  };
  inline At locate(const Parameters& p, int channel, const Spot& spot) const {
    At at;
    at.z = 2.f * spot.near - 1.f;
    at.p = row_of(p.curve, order(), channel), at.dp = Lanes{};
    for (int k = order() - 1; k >= 0; k--) {
      at.dp = at.dp * at.z + at.p;
      at.p = at.p * at.z + row_of(p.curve, k, channel);
    }
    Lanes q = row_of(p.denominator, denominators() - 1, channel);
    at.dq = Lanes{};
    for (int k = denominators() - 2; k >= 0; k--) {
      at.dq = at.dq * at.z + q;
      q = q * at.z + row_of(p.denominator, k, channel);
    }
    at.dq = at.dq * at.z + q;
    q = q * at.z;
    at.q_sign = sign(q);
    at.inverse = 1.f / (1.f + absolute(q));
    return at;
  }
  inline void curve(const Parameters& p, int channel, const Spot& spot, Lanes* s, Lanes* ds) const {
    const At at = locate(p, channel, spot);
    *ds = 2.f * at.inverse * (at.dp - at.p * at.q_sign * at.dq * at.inverse);
    *s = extended(at.p * at.inverse, *ds, spot);
  }
  inline void gradients(const Parameters& p, int channel, const Spot& spot, Lanes h, Sums& sums) const {
    const At at = locate(p, channel, spot);
    h = seen(h, spot);
    const Lanes far = 2.f * beyond(spot), fall = at.q_sign * at.dq * at.inverse;
    Lanes power = h * at.inverse, lower_power = {};  // h z^k / S and h z^(k-1) / S
    for (int k = 0; k <= order(); k++) {
      add(sums.curve, k, channel, power + far * (float(k) * lower_power - power * fall));
      lower_power = power, power *= at.z;
    }
    const Lanes scale = -h * at.q_sign * at.inverse * at.inverse;
    power = at.z, lower_power = all(1.f);
    for (int k = 1; k <= denominators(); k++) {
      const Lanes slope = at.dp * power + at.p * (float(k) * lower_power - 2.f * fall * power);
      add(sums.denominator, k - 1, channel, scale * (at.p * power + far * slope));
      lower_power = power, power *= at.z;
    }
  }
};

inline Lanes exponential(Lanes x) {  // relative error 2e-7
  x = pick(x > 88.f, all(88.f), x);
  x = pick(x < -87.f, all(-87.f), x);
  const Lanes half = pick(x < 0.f, all(-0.5f), all(0.5f));
  const IntVector whole = __builtin_convertvector(x * 1.44269504f + half, IntVector);
  const Lanes n = __builtin_convertvector(whole, Lanes);
  const Lanes r = x - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts
  Lanes e = all(1.f / 720);
  for (float factor : {1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f}) e = e * r + factor;
  return e * reinterpret_cast<Lanes>((whole + 127) << 23);
}

// σ(x) and its slope, of the activation functions in curves.py.
inline void activate(int activation, Lanes x, Lanes* value, Lanes* slope) {
  switch (activation) {
    case 1: *value = x, *slope = all(1.f); return;
    case 2: *value = pick(x > 0.f, x, all(0.f)), *slope = pick(x > 0.f, all(1.f), all(0.f)); return;
    case 3: {  // silu
      const Lanes s = 1.f / (1.f + exponential(-x));
      *value = x * s, *slope = s * (1.f + x * (1.f - s));
      return;
    }
    case 4: {  // gelu_tanh: (1 + tanh(t)) / 2 is the logistic function of 2t
      const Lanes s = 1.f / (1.f + exponential(-1.59576912f * (x + 0.044715f * x * x * x)));
      *value = x * s, *slope = s + x * s * (1.f - s) * (1.59576912f + 0.21406859f * x * x);
      return;
    }
    case 5: {  // tanh
      const Lanes s = 1.f / (1.f + exponential(-2.f * x));
      *value = 2.f * s - 1.f, *slope = 4.f * s * (1.f - s);
      return;
    }
    default: *value = Lanes{}, *slope = Lanes{};
  }
}

struct Call {
  float *y, *dx, *dbase, *dfactor, *dcoefficients, *ddenominators;
  const float *gradient, *base, *factor, *x, *coefficients, *denominators, *domain;
  int64_t tokens, inputs;
  int activation;
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

// Forward of few tokens: nothing is prepared.
template <int K>
void run_at_once(const Call& c, const Family& family) {
  const BSpline<K> basis(family);
  float lower[LANES] = {}, inverse_width[LANES] = {};
  for (int64_t i = 0; i < c.inputs; i += LANES) {
    const int alive = int(std::min<int64_t>(LANES, c.inputs - i));
    for (int lane = 0; lane < alive; lane++) {
      lower[lane] = c.domain[2 * (i + lane)];
      inverse_width[lane] = 1.f / (c.domain[2 * (i + lane) + 1] - lower[lane]);
    }
    const Parameters p{nullptr, nullptr, lower, inverse_width};
    for (int64_t n = 0; n < c.tokens; n++) {
      const int64_t row = n * c.inputs + i;
      const Spot spot(read(c.x + row, 0, alive), p, 0, family.extrapolation);
      Lanes s, ds;
      basis.curve_at_once(c.coefficients + i * family.coefficients, family.coefficients, alive, spot, &s, &ds);
      if (c.base) s = read(c.base + row, 0, alive) + s;
      if (c.factor) s = s * read(c.factor + row, 0, alive);
      write(c.y + row, s, 0, alive);
    }
  }
}

// The curves of CHANNELS neighbouring channels, ready for use, and the sums of their gradients.
template <class Basis>
struct Block {
  const Basis& basis;
  const Call& call;
  const Family& family;
  const int64_t first;
  const int alive, rows, all_rows;
  Buffer<float> kept, sums, totals;

  Block(const Basis& basis, const Call& call, const Family& family, int64_t first)
      : basis(basis),
        call(call),
        family(family),
        first(first),
        alive(int(std::min<int64_t>(CHANNELS, call.inputs - first))),
        rows(basis.rows()),
        all_rows(rows + family.denominators),
        kept((all_rows + 2) * CHANNELS),
        sums(learns() ? all_rows * CHANNELS : 0),
        totals(learns() ? all_rows * CHANNELS : 0) {
    float* denominators = &kept[rows * CHANNELS];
    float *lower = &kept[all_rows * CHANNELS], *inverse_width = lower + CHANNELS;
    for (int i = 0; i < CHANNELS; i++) {
      const int64_t channel = first + std::min(i, alive - 1);
      basis.take(kept.data, call.coefficients + channel * family.coefficients, i);
      for (int k = 0; k < family.denominators; k++)
        denominators[k * CHANNELS + i] = call.denominators[channel * family.denominators + k];
      lower[i] = call.domain[2 * channel];
      inverse_width[i] = 1.f / (call.domain[2 * channel + 1] - lower[i]);
    }
    if (learns()) clear(sums), clear(totals);
  }

  bool learns() const { return call.dcoefficients || call.ddenominators; }
  void clear(Buffer<float>& buffer) { std::memset(buffer.data, 0, sizeof(float) * all_rows * CHANNELS); }
  Parameters parameters() const {
    const float* lower = kept.data + all_rows * CHANNELS;
    return {kept.data, kept.data + rows * CHANNELS, lower, lower + CHANNELS};
  }

  void forward(int64_t token) {
    const Parameters p = parameters();
    const int64_t row = token * call.inputs + first;
    for (int i = 0; i < alive; i += LANES) {
      const Spot spot(read(call.x + row, i, alive), p, i, family.extrapolation);
      Lanes s, ds;
      basis.curve(p, i, spot, &s, &ds);
      if (call.base) s = read(call.base + row, i, alive) + s;
      if (call.factor) s = s * read(call.factor + row, i, alive);
      write(call.y + row, s, i, alive);
    }
  }

  void backward(int64_t token) {
    const Parameters p = parameters();
    const int64_t row = token * call.inputs + first;
    Sums places{sums.data, sums.data + rows * CHANNELS};
    for (int i = 0; i < alive; i += LANES) {
      const Lanes x = read(call.x + row, i, alive);
      const Spot spot(x, p, i, family.extrapolation);
      Lanes h = read(call.gradient + row, i, alive);
      Lanes s, ds;
      if (call.dx || call.dfactor) {
        basis.curve(p, i, spot, &s, &ds);
        ds *= spot.moves * spot.inverse_width;
        if (call.activation) {
          Lanes value, slope;
          activate(call.activation, x, &value, &slope);
          s += value, ds += slope;
        }
      }
      if (call.dfactor) {
        if (call.base) s = read(call.base + row, i, alive) + s;
        write(call.dfactor + row, h * s, i, alive);
      }
      if (call.factor) h *= read(call.factor + row, i, alive);
      if (call.dx) write(call.dx + row, h * ds, i, alive);
      if (call.dbase) write(call.dbase + row, h, i, alive);
      if (learns()) basis.gradients(p, i, spot, h, places);
    }
  }

  void add_up() {
    if (!learns()) return;
    for (int k = 0; k < all_rows * CHANNELS; k++) totals[k] += sums[k];
    clear(sums);
  }

  void give() {
    for (int i = 0; i < alive; i++) {
      if (call.dcoefficients) basis.give(call.dcoefficients + (first + i) * family.coefficients, totals.data, i);
      if (call.ddenominators)
        for (int k = 0; k < family.denominators; k++)
          call.ddenominators[(first + i) * family.denominators + k] = totals[(rows + k) * CHANNELS + i];
    }
  }
};

template <class Basis>
void run(const Call& call, const Family& family, int threads) {
  const Basis basis(family);
  const bool backward = call.gradient != nullptr;
  if (call.tokens * call.inputs < ALONE) threads = 1;
  // A task has as many blocks of channels as may be: rows are read in long pieces. Backward adds up over tokens, so a
  // task has all of them; forward may be cut along the tokens as well.
  const int64_t blocks = (call.inputs + CHANNELS - 1) / CHANNELS;
  const int64_t span = std::min<int64_t>(MOST_BLOCKS, (blocks + threads - 1) / threads);
  const int64_t spans = (blocks + span - 1) / span;
  const int64_t cuts = backward ? 1 : std::max<int64_t>(1, std::min<int64_t>((call.tokens + 63) / 64, threads / spans));
  const int64_t per_cut = (call.tokens + cuts - 1) / cuts;
  parallel(spans * cuts, threads, [&](int64_t task) {
    std::vector<std::unique_ptr<Block<Basis>>> mine;
    const int64_t first_block = task / cuts * span;
    for (int64_t b = first_block; b < std::min(first_block + span, blocks); b++)
      mine.emplace_back(new Block<Basis>(basis, call, family, b * CHANNELS));
    const int64_t begin = task % cuts * per_cut, end = std::min(begin + per_cut, call.tokens);
    for (int64_t n0 = begin; n0 < end; n0 += TILE) {
      const int64_t last = std::min(n0 + TILE, end);
      for (auto& block : mine) {
        for (int64_t n = n0; n < last; n++) backward ? block->backward(n) : block->forward(n);
        if (backward && (last % SUMMED == 0 || last == end)) block->add_up();
      }
    }
    if (backward)
      for (auto& block : mine) block->give();
  });
}

void dispatch(int basis, const Call& call, const Family& family, int threads) {
  if (basis == 1) return family.order == 3 ? run<Chebyshev<3>>(call, family, threads) : run<Chebyshev<0>>(call, family, threads);
  if (basis == 2) return family.order == 5 ? run<Rational<5>>(call, family, threads) : run<Rational<0>>(call, family, threads);
  if (!call.gradient && call.tokens <= FEW) switch (family.order) {
      case 1: return run_at_once<1>(call, family);
      case 2: return run_at_once<2>(call, family);
      case 3: return run_at_once<3>(call, family);
      case 4: return run_at_once<4>(call, family);
      case 5: return run_at_once<5>(call, family);
    }
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
                            const float* table, int64_t tokens, int64_t inputs, int activation,
                            int num_coefficients, int num_denominators, int basis, int grid, int order, int extrapolation, int threads) {
  Call call{};
  call.dx = dx, call.dbase = dbase, call.dfactor = dfactor, call.dcoefficients = dcoefficients;
  call.ddenominators = ddenominators, call.gradient = gradient, call.base = base, call.factor = factor, call.x = x;
  call.coefficients = coefficients, call.denominators = denominators, call.domain = domain;
  call.tokens = tokens, call.inputs = inputs, call.activation = activation;
  dispatch(basis, call, {grid, order, extrapolation, num_coefficients, num_denominators, table}, threads);
}
