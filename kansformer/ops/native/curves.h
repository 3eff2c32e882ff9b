// What the families of curves share: where an input lies on the axis of its curve, and how the
// numbers of many channels lie in memory.
//
// A family is a struct with
//   width()      numbers that it keeps of a channel's curve;
//   take, give   fill them from the curve's coefficients, and turn the sums of their gradients into those of these;
//   AHEAD        vectors that are located before the first is used;
//   TABLE        numbers of the table that `tabulate` makes of a curve which all channels of a vector share, where nothing
//                is learned; 0 for none. `find` is `locate` for such a vector;
//   locate       what there is to know of a vector of inputs, once for the two that follow;
//   curve        s and its derivative by x, outside the domain as well;
//   gradients    add h ∂s to the sums.
#pragma once

#include "lanes.h"

struct Family {
  int grid, order, extrapolation, coefficients, denominators;
  const float* table;
};

// The numbers of neighbouring channels: `curve` in the family's own order, denominators in rows, the others one each.
// Vector v has a table at v · TABLE if it is `uniform`: all of its channels share one curve.
struct Parameters {
  const float *curve, *denominator, *lower, *inverse_width, *tables;
  const char* uniform;
};
struct Sums {
  float *curve, *denominator;
};

// Where number k of a channel stands if it has `width`: every LANES channels have rows of LANES.
INLINE int64_t in_rows(int channel, int width, int k) {
  return int64_t(channel / LANES * LANES) * width + k * LANES + channel % LANES;
}
INLINE void add(float* place, Lanes v) { store(place, load(place) + v); }

// An input's place on the axis of its curve, in units of the domain.
struct Spot {
  Lanes unit, near, moves, inside, inverse_width;

  Spot() = default;
  INLINE Spot(Lanes x, const Parameters& p, int channel, int extrapolation) {
    inverse_width = load(p.inverse_width + channel);
    const Lanes exact = (x - load(p.lower + channel)) * inverse_width;
    unit = larger(all(-MAX_DISTANCE), smaller(all(MAX_DISTANCE), exact));
    near = larger(all(0.f), smaller(all(1.f), unit));
    inside = pick(near == unit, all(1.f), all(0.f));
    // A curve that does not go on has no slope outside; one that does has none beyond MAX_DISTANCE.
    moves = extrapolation == LINEAR ? pick(unit == exact, all(1.f), all(0.f)) : inside;
  }
};
