// Curves that are one formula on the whole domain, of z = 2 · unit - 1, -1 to 1, and go on outside as their tangent:
//
//   Chebyshev   Σ a_k T_k(z)              T_k' = k U_{k-1}
//   rational    P(z) / (1 + |Q(z)|)       P = Σ a_k z^k, Q = Σ_{k ≥ 1} q_k z^k
//
// A channel's numbers are its coefficients, in rows (`in_rows`).
#pragma once

#include "curves.h"

struct Plain {
  static constexpr int AHEAD = 1, TABLE = 0;
  const int coefficients, extrapolation;
  explicit Plain(const Family& f) : coefficients(f.coefficients), extrapolation(f.extrapolation) {}

  int width() const { return coefficients; }
  void take(float* rows, const float* a, int channel) const {
    for (int c = 0; c < coefficients; c++) rows[in_rows(channel, coefficients, c)] = a[c];
  }
  void give(float* da, const float* rows, int channel) const {
    for (int c = 0; c < coefficients; c++) da[c] = rows[in_rows(channel, coefficients, c)];
  }
  INLINE Lanes coefficient(const Parameters& p, int channel, int k) const {
    return load(p.curve + in_rows(channel, coefficients, k));
  }
  INLINE Lanes beyond(const Spot& spot) const { return extrapolation == LINEAR ? spot.unit - spot.near : Lanes{}; }
  INLINE Lanes extended(Lanes s, Lanes ds, const Spot& spot) const {
    s = s + ds * beyond(spot);
    return extrapolation == ZERO ? s * spot.inside : s;
  }
  INLINE Lanes seen(Lanes h, const Spot& spot) const { return extrapolation == ZERO ? h * spot.inside : h; }
};

template <int ORDER>  // 0: known at run time only
struct Chebyshev : Plain {
  const int any_order;
  explicit Chebyshev(const Family& f) : Plain(f), any_order(f.order) {}

  typedef Spot At;  // a recurrence of few steps is run twice: its values take more to keep
  INLINE At locate(const Parameters& p, int channel, Lanes x) const { return Spot(x, p, channel, extrapolation); }

  template <class Use>  // use(k, T_k, dT_k / d unit)
  INLINE void each(const Spot& spot, Use use) const {
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
  INLINE void curve(const Parameters& p, int channel, const At& spot, Lanes* s, Lanes* ds) const {
    Lanes value = {}, slope = {};
    each(spot, [&](int k, Lanes t, Lanes dt) {
      const Lanes a = coefficient(p, channel, k);
      value += a * t, slope += a * dt;
    });
    *s = extended(value, slope, spot), *ds = slope * spot.moves * spot.inverse_width;
  }
  INLINE void gradients(const Parameters&, int channel, const At& spot, Lanes h, Sums& sums) const {
    h = seen(h, spot);
    const Lanes far = beyond(spot);
    float* row = sums.curve + in_rows(channel, coefficients, 0);
    each(spot, [&](int k, Lanes t, Lanes dt) { add(row + k * LANES, h * (t + dt * far)); });
  }
};

template <int ORDER>  // 0: known at run time only
struct Rational : Plain {
  const int any_order;
  explicit Rational(const Family& f) : Plain(f), any_order(f.order) {}
  INLINE int order() const { return ORDER ? ORDER : any_order; }
  INLINE int denominators() const { return order() > 1 ? order() - 1 : 1; }
  INLINE Lanes denominator(const Parameters& p, int channel, int k) const {
    return load(p.denominator + in_rows(channel, denominators(), k - 1));
  }

  struct At {
    Spot spot;
    Lanes z, p, dp, q_sign, dq, inverse;  // derivatives by z; inverse = 1 / (1 + |Q|)
  };
  INLINE At locate(const Parameters& p, int channel, Lanes x) const {
    At at;
    at.spot = Spot(x, p, channel, extrapolation);
    at.z = 2.f * at.spot.near - 1.f;
    at.p = coefficient(p, channel, order()), at.dp = Lanes{};
    for (int k = order() - 1; k >= 0; k--) {
      at.dp = at.dp * at.z + at.p;
      at.p = at.p * at.z + coefficient(p, channel, k);
    }
    Lanes q = denominator(p, channel, denominators());
    at.dq = Lanes{};
    for (int k = denominators() - 2; k >= 0; k--) {
      at.dq = at.dq * at.z + q;
      q = q * at.z + denominator(p, channel, k + 1);
    }
    at.dq = at.dq * at.z + q;
    q = q * at.z;
    at.q_sign = sign(q);
    at.inverse = 1.f / (1.f + absolute(q));
    return at;
  }
  INLINE void curve(const Parameters&, int, const At& at, Lanes* s, Lanes* ds) const {
    const Lanes slope = 2.f * at.inverse * (at.dp - at.p * at.q_sign * at.dq * at.inverse);
    *s = extended(at.p * at.inverse, slope, at.spot), *ds = slope * at.spot.moves * at.spot.inverse_width;
  }
  // Both gradients are u z^k + v k z^(k-1); v is zero inside the domain.
  INLINE void gradients(const Parameters&, int channel, const At& at, Lanes h, Sums& sums) const {
    const Lanes far = 2.f * beyond(at.spot), fall = at.q_sign * at.dq * at.inverse;
    const Lanes numerator = seen(h, at.spot) * at.inverse, denominator = -numerator * at.q_sign * at.inverse;
    const Lanes p_u = numerator * (1.f - far * fall), p_v = numerator * far;
    const Lanes q_u = denominator * (at.p + far * (at.dp - 2.f * at.p * fall)), q_v = denominator * (at.p * far);
    Lanes power = all(1.f), slope = {};  // z^k and k z^(k-1)
    for (int k = 0; k <= order(); k++) {
      add(sums.curve + in_rows(channel, coefficients, k), p_u * power + p_v * slope);
      if (k && k <= denominators())
        add(sums.denominator + in_rows(channel, denominators(), k - 1), q_u * power + q_v * slope);
      slope = float(k + 1) * power, power *= at.z;
    }
  }
};
