// B-spline curves as one polynomial per interval of the grid, with two more intervals for what lies outside the domain:
//
//   s(x) = Σ_p f_p t^p      ∂s/∂f_p = t^p      t the position in the interval, 0 to 1
//
// The factors f of all intervals are made once per call. A channel's lie together, interval by interval, so that every
// lane looks up those of its interval as one quad (two for orders 4 and 5), and its gradients are added the same way:
// the time does not depend on the grid. Where nothing is learned, a vector whose channels all share a curve looks up in a
// table of each factor, which a register holds.
#pragma once

#include "curves.h"

template <int K>
struct BSpline {
  static constexpr int AHEAD = 8, TABLE = (K + 1) * ENTRIES;
  static constexpr int WIDTH = (K + 4) / 4 * 4;  // numbers of an interval: its K + 1 factors in whole quads
  const Segments<K> segments;
  const int grid, coefficients, extrapolation;
  Quad weights[K + 1][WIDTH / 4] = {};  // the segments in quads

  explicit BSpline(const Family& f)
      : segments(f.table), grid(f.grid), coefficients(f.coefficients), extrapolation(f.extrapolation) {
    for (int k = 0; k <= K; k++)
      for (int p = 0; p <= K; p++) weights[k][p / 4][p % 4] = segments.factor[k][p];
  }

  int width() const { return (grid + 2) * WIDTH; }

  // Interval q begins at (q + 1) · WIDTH; intervals -1 and G lie outside the domain, and are the value and the slope of
  // their neighbour at its end, t = 1 left of the domain and t = 0 right of it.
  void take(float* kept, const float* a, int channel) const {
    float* factors = kept + channel * width();
    Quad* place = reinterpret_cast<Quad*>(factors + WIDTH);
    for (int q = 0; q < grid; q++)
      for (int quad = 0; quad < WIDTH / 4; quad++, place++) {
        *place = a[q] * weights[0][quad];
        for (int k = 1; k <= K; k++) *place += a[q + k] * weights[k][quad];
      }
    float *left = factors, *first = left + WIDTH, *last = factors + grid * WIDTH, *right = last + WIDTH;
    for (int p = 0; p < WIDTH; p++) left[p] = right[p] = 0;
    if (extrapolation == ZERO) return;
    left[0] = first[0];
    for (int p = 0; p <= K; p++) right[0] += last[p];
    if (extrapolation != LINEAR) return;
    left[0] -= first[1], left[1] = first[1];
    for (int p = 1; p <= K; p++) right[1] += p * last[p];
  }
  bool has_tables() const { return CAN_LOOK_UP && grid + 2 <= ENTRIES; }
  void tabulate(float* table, const float* kept, int channel) const {
    for (int p = 0; p <= K; p++)
      for (int q = 0; q < grid + 2; q++) table[p * ENTRIES + q] = kept[channel * width() + q * WIDTH + p];
  }
  void give(float* da, float* sums, int channel) const {
    float* dfactors = sums + channel * width();
    float *left = dfactors, *first = left + WIDTH, *last = dfactors + grid * WIDTH, *right = last + WIDTH;
    if (extrapolation != ZERO) {
      first[0] += left[0];
      for (int p = 0; p <= K; p++) last[p] += right[0];
    }
    if (extrapolation == LINEAR) {  // elsewhere the first powers may be infinite
      first[1] += left[1] - left[0];
      for (int p = 1; p <= K; p++) last[p] += p * right[1];
    }
    for (int c = 0; c < coefficients; c++) {
      Quad total = {};
      for (int k = std::max(0, c - grid + 1); k <= std::min(K, c); k++) {
        const Quad* place = reinterpret_cast<const Quad*>(first + (c - k) * WIDTH);
        for (int quad = 0; quad < WIDTH / 4; quad++) total += weights[k][quad] * place[quad];
      }
      da[c] = (total[0] + total[1]) + (total[2] + total[3]);
    }
  }

  struct Entry {
    Lanes t, rate;      // rate: intervals per unit of x; 0 where the definition holds the input at MAX_DISTANCE
    IntLanes interval;  // from 0, which lies left of the domain
  };
  struct At {
    Lanes t, rate;
    int places[LANES];
  };
  INLINE Entry find(const Parameters& p, int channel, Lanes x) const {
    Entry at;
    const Lanes inverse_width = load(p.inverse_width + channel);
    const Lanes exact = (x - load(p.lower + channel)) * inverse_width;
    const Lanes unit = larger(all(-MAX_DISTANCE), smaller(all(MAX_DISTANCE), exact));
    at.rate = pick(unit == exact, inverse_width * float(grid), Lanes{});
    const Lanes scaled = unit * float(grid);
    Lanes q = rounded_down(larger(smaller(scaled, all(grid)), all(-1.f)));
    // Without a slope outside, the end belongs to the domain; and NaN does, where powers of it reach the gradients.
    if (extrapolation != LINEAR) q = pick(scaled > float(grid), all(grid), smaller(q, all(grid - 1.f)));
    at.t = scaled - q;
    at.interval = __builtin_convertvector(q, IntLanes) + 1;
    return at;
  }
  INLINE At locate(const Parameters& p, int channel, Lanes x) const {
    const Entry entry = find(p, channel, x);
    At at;
    at.t = entry.t, at.rate = entry.rate;
    const IntLanes places = (lane_numbers() + channel) * width() + entry.interval * WIDTH;
    std::memcpy(at.places, &places, sizeof(places));
    asm("" : "+m"(at.places));  // to be read from there: taking numbers out of a register costs more
    return at;
  }
  INLINE void curve(const Parameters& p, int, const At& at, Lanes* s, Lanes* ds) const {
    Lanes f[WIDTH];
    for (int quad = 0; quad < WIDTH; quad += 4) look_up_quads(p.curve + quad, at.places, f + quad);
    polynomial(f, at.t, at.rate, s, ds);
  }
  INLINE void curve(const Parameters& p, int channel, const Entry& at, Lanes* s, Lanes* ds) const {
    Lanes f[K + 1];
    for (int k = 0; k <= K; k++) f[k] = look_up(p.tables + channel / LANES * TABLE + k * ENTRIES, at.interval);
    polynomial(f, at.t, at.rate, s, ds);
  }
  INLINE void polynomial(const Lanes* f, Lanes t, Lanes rate, Lanes* s, Lanes* ds) const {
    Lanes value = f[K], slope = float(K) * f[K];
    for (int k = K - 1; k >= 0; k--) {
      value = value * t + f[k];
      if (k) slope = slope * t + float(k) * f[k];
    }
    *s = value, *ds = slope * rate;
  }
  // Higher powers outside the domain, infinite for far inputs, go where `give` does not look.
  INLINE void gradients(const Parameters&, int, const At& at, Lanes h, Sums& sums) const {
    Lanes share[WIDTH] = {h};
    for (int k = 1; k <= K; k++) share[k] = share[k - 1] * at.t;
    for (int quad = 0; quad < WIDTH; quad += 4) add_to_quads(sums.curve + quad, at.places, share + quad);
  }

  // s and ds without factors: for few tokens it costs less to look up the K + 1 coefficients of every lane, which begin
  // at `a`.
  INLINE void curve_at_once(const float* const* a, int alive, const Spot& spot, Lanes* s, Lanes* ds) const {
    const Lanes near = spot.near * float(grid);
    Lanes q = __builtin_convertvector(__builtin_convertvector(near, IntLanes), Lanes);
    q = pick(q < grid - 1.f, q, all(grid - 1.f));
    q = pick(near == near, q, all(0.f));
    const Lanes t = near - q;
    const IntLanes first = __builtin_convertvector(q, IntLanes);
    Lanes live[K + 1];
    if constexpr (K == 3) {  // a quad per lane
      const float* quads[LANES];
      for (int lane = 0; lane < LANES; lane++) quads[lane] = lane < alive ? a[lane] + first[lane] : a[0];
      for (int j = 0; j < 4; j++) live[j] = join_quads(quads + j);
      transpose_quads(live);
    } else {
      float rows[K + 1][LANES] = {};
      for (int lane = 0; lane < alive; lane++)
        for (int k = 0; k <= K; k++) rows[k][lane] = a[lane][first[lane] + k];
      for (int k = 0; k <= K; k++) live[k] = load(rows[k]);
    }
    Lanes value_sum = {}, slope_sum = {};
    for (int k = 0; k <= K; k++) {
      Lanes value = all(segments.factor[k][K]), slope = float(K) * value;
      for (int p = K - 1; p >= 0; p--) {
        value = value * t + segments.factor[k][p];
        if (p) slope = slope * t + p * segments.factor[k][p];
      }
      value_sum += live[k] * value, slope_sum += live[k] * slope;
    }
    *ds = slope_sum * float(grid);
    *s = extrapolation == LINEAR ? value_sum + *ds * (spot.unit - spot.near) : value_sum;
    if (extrapolation == ZERO) *s *= spot.inside;
  }
};
