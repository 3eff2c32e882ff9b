// σ(x) and its slope, of the activation functions numbered in `SLOPES` of kernels.py.
#pragma once

#include "lanes.h"

INLINE Lanes exponential(Lanes x) {  // relative error 2e-7
  x = larger(all(-87.f), smaller(all(88.f), x));
  constexpr float ROUNDS = 12582912.f;  // 1.5 · 2^23: a number added to it loses its fraction
  const Lanes shifted = x * 1.44269504f + ROUNDS, n = shifted - ROUNDS;
  const Lanes r = x - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts
  Lanes e = all(1.f / 720);
  for (float factor : {1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f}) e = e * r + factor;
  return reinterpret_cast<Lanes>(reinterpret_cast<IntLanes>(e) + (reinterpret_cast<IntLanes>(shifted) << 23));
}

// 1 / (1 + exp(-x)), and x held where it no longer changes that: slopes would multiply what has vanished by x, or lose 1
// in the difference of two large numbers.
INLINE Lanes logistic(Lanes x) { return pick(x < -87.f, Lanes{}, 1.f / (1.f + exponential(-x))); }
INLINE Lanes held(Lanes x) { return larger(all(-87.f), smaller(all(87.f), x)); }

INLINE void activate(int activation, Lanes x, Lanes* value, Lanes* slope) {
  switch (activation) {
    case 1: *value = x, *slope = all(1.f); return;
    case 2: *value = pick(x > 0.f, x, all(0.f)), *slope = pick(x > 0.f, all(1.f), all(0.f)); return;
    case 3: {  // silu
      const Lanes s = logistic(x);
      *value = x * s, *slope = s + held(x) * s * (1.f - s);
      return;
    }
    case 4: {  // gelu_tanh: (1 + tanh(t)) / 2 is the logistic function of 2t
      const Lanes near = held(x);
      const Lanes s = logistic(1.59576912f * (near + 0.044715f * near * near * near));
      *value = x * s, *slope = s + near * s * (1.f - s) * (1.59576912f + 0.21406859f * near * near);
      return;
    }
    case 5: {  // tanh, near 0 by its series, where the difference of two halves has few digits
      const Lanes s = logistic(2.f * x), xx = x * x;
      const Lanes near = x * (1.f + xx * (-1.f / 3 + xx * (2.f / 15 - xx * (17.f / 315))));
      *value = pick(absolute(x) < 0.1f, near, 2.f * s - 1.f), *slope = 4.f * s * (1.f - s);
      return;
    }
    default: *value = Lanes{}, *slope = Lanes{};
  }
}
