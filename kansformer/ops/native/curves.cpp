// One curve per channel, or per group of neighbouring channels, added to an activation and multiplied by a gate's other
// half, in one pass over memory:
//
//   forward     y = (base + s(x)) · factor                      base and factor are optional
//   backward    h = g · factor    ∂base = h    ∂factor = g · (base + s(x))
//               where base is an activation σ(x), its slope joins that of s, and nothing of it is read:
//               ∂x = h · (σ'(x) + s'(x))    ∂a_ic = Σ_n h B_c(x_ni)    ∂q_ik = Σ_n h ∂s/∂q_ik
//
// A vector holds neighbouring channels of one token. Every channel has its own copy of its curve and its own sums, so
// that a group of any size may begin anywhere; its channels are added up at the end. Sums over tokens are kept per
// SUMMED tokens and then added up: longer sums lose digits.
//
// x, base, factor, y, g (N, I), coefficients a (P, C), denominator q (P, D), domain (P, 2), contiguous float32; curve p
// belongs to the I / P channels from p · I / P on. The (N, I) may be bfloat16: rows are then computed in float32 copies.
// y is rounded before and after the product with the factor, as by two operations of PyTorch; gradients are rounded once,
// of sums that were not.
#include "activations.h"
#include "curves_bspline.h"
#include "curves_polynomial.h"

namespace {

constexpr int CACHED = 1 << 17;     // numbers of curves and sums that a task may have, to stay in its cache
constexpr int TOGETHER = 64;        // a task's channels are a multiple of this, unless they are all
constexpr int SUMMED = 512;         // tokens in a sum
constexpr int FEW = 4;              // tokens for which nothing is prepared
constexpr int64_t ALONE = 1 << 14;  // fewer numbers are done before a second thread has begun

struct Call : Arguments {
  const int64_t channels_per_curve;
  explicit Call(const Arguments& arguments) : Arguments(arguments), channels_per_curve(inputs / curves) {}

  int64_t curve_of(int64_t channel) const { return channels_per_curve == 1 ? channel : channel / channels_per_curve; }
};

void widen_all(float* to, const bf16* from, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) to[i] = widen(from[i]);
}
void round_all(bf16* to, const float* from, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) to[i] = bf16(round_to_bf16(from[i]));
}

// A call whose pointers lead to float32: the call itself, or for bfloat16 one with copies of `count` neighbouring numbers.
class Float32Rows {
  const Call& narrow;
  const int64_t count;
  Buffer<float> copies;

  template <class Visit>
  static void each_read(Visit visit) {
    for (auto pointer : {&Call::x, &Call::base, &Call::factor, &Call::gradient}) visit(pointer);
  }
  template <class Visit>
  static void each_written(Visit visit) {
    for (auto pointer : {&Call::y, &Call::dx, &Call::dbase, &Call::dfactor}) visit(pointer);
  }

 public:
  Call call;
  __attribute__((noinline)) Float32Rows(const Call& narrow, int64_t count)
      : narrow(narrow), count(count), copies(narrow.bfloat16 ? 8 * count : 0), call(narrow) {
    if (!narrow.bfloat16) return;
    float* next = copies.data;
    const auto move = [&](auto pointer) {
      if (call.*pointer) call.*pointer = next, next += count;
    };
    each_read(move), each_written(move);
  }
  // Where the numbers from `place` on are found, after they have been read.
  __attribute__((noinline)) int64_t copy_in(int64_t place) {
    if (!narrow.bfloat16) return place;
    each_read([&](auto pointer) {
      if (narrow.*pointer)
        widen_all(const_cast<float*>(call.*pointer), reinterpret_cast<const bf16*>(narrow.*pointer) + place, count);
    });
    return 0;
  }
  __attribute__((noinline)) void copy_out(int64_t place) {
    if (!narrow.bfloat16) return;
    each_written([&](auto pointer) {
      if (narrow.*pointer) round_all(reinterpret_cast<bf16*>(narrow.*pointer) + place, call.*pointer, count);
    });
  }
};

// Forward of few tokens: nothing is prepared.
template <int K>
void evaluate_at_once(const Call& c, const Family& family) {
  const BSpline<K> basis(family);
  float lower[LANES] = {}, inverse_width[LANES] = {};
  const float* coefficients[LANES];
  const auto take = [&](int lane, int64_t curve) {
    coefficients[lane] = c.coefficients + curve * family.coefficients;
    lower[lane] = c.domain[2 * curve];
    inverse_width[lane] = 1.f / (c.domain[2 * curve + 1] - lower[lane]);
  };
  for (int64_t i = 0; i < c.inputs; i += LANES) {
    const int alive = int(std::min<int64_t>(LANES, c.inputs - i));
    if (c.channels_per_curve == 1)  // a loop of its own, which compilers turn into vectors
      for (int lane = 0; lane < alive; lane++) take(lane, i + lane);
    else
      for (int lane = 0; lane < alive; lane++) take(lane, c.curve_of(i + lane));
    const Parameters p{nullptr, nullptr, lower, inverse_width, nullptr, nullptr};
    for (int64_t n = 0; n < c.tokens; n++) {
      const int64_t row = n * c.inputs + i;
      const Spot spot(read(c.x + row, 0, alive), p, 0, family.extrapolation);
      Lanes s, ds;
      basis.curve_at_once(coefficients, alive, spot, &s, &ds);
      if (c.base) s = read(c.base + row, 0, alive) + s;
      if (c.factor) s = (c.bfloat16 ? rounded_to_bf16(s) : s) * read(c.factor + row, 0, alive);
      write(c.y + row, s, 0, alive);
    }
  }
}
template <int K>
void run_at_once(const Call& call, const Family& family) {
  Float32Rows rows(call, call.tokens * call.inputs);
  rows.copy_in(0);
  evaluate_at_once<K>(rows.call, family);
  rows.copy_out(0);
}

// The curves of neighbouring channels, ready for use, and the sums of their gradients.
template <class Basis>
struct Block {
  const Basis& basis;
  const Call& call;
  const Family& family;
  const int64_t first;
  const int channels, padded;  // the second in whole vectors
  const int width, all_width;  // numbers of a channel: the family's, and the denominator's with them
  Buffer<float> kept, sums, totals, tables;
  Buffer<char> uniform;

  Block(const Basis& basis, const Call& call, const Family& family, int64_t first, int channels)
      : basis(basis),
        call(call),
        family(family),
        first(first),
        channels(channels),
        padded((channels + LANES - 1) / LANES * LANES),
        width(basis.width()),
        all_width(width + family.denominators),
        kept((all_width + 2) * padded),
        sums(learns() ? all_width * padded : 0),
        totals(learns() ? all_width * padded : 0),
        tables(padded / LANES * Basis::TABLE),
        uniform(padded / LANES) {
    float* denominators = &kept[width * padded];
    float *lower = &kept[all_width * padded], *inverse_width = lower + padded;
    for (int i = 0; i < padded; i++) {
      const int64_t curve = call.curve_of(first + std::min(i, channels - 1));
      basis.take(kept.data, call.coefficients + curve * family.coefficients, i);
      for (int k = 0; k < family.denominators; k++)
        denominators[in_rows(i, family.denominators, k)] = call.denominator[curve * family.denominators + k];
      lower[i] = call.domain[2 * curve];
      inverse_width[i] = 1.f / (call.domain[2 * curve + 1] - lower[i]);
    }
    std::memset(uniform.data, 0, padded / LANES);
    if (learns()) clear(sums), clear(totals);
    if constexpr (Basis::TABLE > 0)
      for (int i = 0; i < padded && basis.has_tables() && !learns(); i += LANES) {
        uniform[i / LANES] = call.curve_of(first + i) == call.curve_of(first + std::min(i + LANES, channels) - 1);
        if (uniform[i / LANES]) basis.tabulate(&tables[i / LANES * Basis::TABLE], kept.data, i);
      }
  }

  bool learns() const { return call.dcoefficients || call.ddenominator; }
  void clear(Buffer<float>& buffer) { std::memset(buffer.data, 0, sizeof(float) * all_width * padded); }
  Parameters parameters() const {
    const float* lower = kept.data + all_width * padded;
    return {kept.data, kept.data + width * padded, lower, lower + padded, tables.data, uniform.data};
  }

  // use(channel, x, at) for every vector of a row. A processor looks about one vector ahead, and what it finds there
  // waits for the places of its factors; so these are made for several vectors before the first is used.
  template <bool TABLES, class Use>
  INLINE void ahead(const Parameters& p, const float* x, Use use) const {
    const Basis curves = basis;
    const int channels = this->channels;
    if constexpr (Basis::AHEAD == 1) {
      for (int i = 0; i < channels; i += LANES) {
        const Lanes v = read(x, i, channels);
        use(i, v, curves.locate(p, i, v));
      }
      return;
    }
    for (int first = 0; first < channels; first += Basis::AHEAD * LANES) {
      const int last = std::min(channels, first + Basis::AHEAD * LANES);
      typename Basis::At at[Basis::AHEAD];
      for (int i = first, j = 0; i < last; i += LANES, j++)
        if (!TABLES || !p.uniform[i / LANES]) at[j] = curves.locate(p, i, read(x, i, channels));
      for (int i = first, j = 0; i < last; i += LANES, j++) {
        const Lanes v = read(x, i, channels);
        if constexpr (TABLES && Basis::TABLE > 0)
          if (p.uniform[i / LANES]) {
            use(i, v, curves.find(p, i, v));
            continue;
          }
        use(i, v, at[j]);
      }
    }
  }

  // use(call, row) for the rows of tokens, in float32.
  template <class Use>
  INLINE void each_row(int64_t begin, int64_t end, Use use) const {
    Float32Rows rows(call, channels);
    const Call c = rows.call;
    for (int64_t row = begin * c.inputs + first; row < end * c.inputs; row += c.inputs) {
      use(c, rows.copy_in(row));
      rows.copy_out(row);
    }
  }

  // Nothing that a loop needs is read through `this`: its stores might have changed it.
  void forward(int64_t begin, int64_t end) {
    const Parameters p = parameters();
    const Basis curves = basis;
    const int channels = this->channels;
    each_row(begin, end, [&](const Call& c, int64_t row) {
      ahead<true>(p, c.x + row, [&](int i, Lanes, const auto& at) {
        Lanes s, ds;
        curves.curve(p, i, at, &s, &ds);
        if (c.base) s = read(c.base + row, i, channels) + s;
        if (c.factor) s = (c.bfloat16 ? rounded_to_bf16(s) : s) * read(c.factor + row, i, channels);
        write(c.y + row, s, i, channels);
      });
    });
  }

  void backward(int64_t begin, int64_t end) { learns() ? backward<true>(begin, end) : backward<false>(begin, end); }
  template <bool LEARNS>
  void backward(int64_t begin, int64_t end) {
    const Parameters p = parameters();
    const Basis curves = basis;
    const int channels = this->channels;
    Sums places{sums.data, sums.data + width * padded};
    each_row(begin, end, [&](const Call& c, int64_t row) {
      ahead<!LEARNS>(p, c.x + row, [&](int i, Lanes x, const auto& at) {
        Lanes h = read(c.gradient + row, i, channels);
        Lanes s = {}, ds = {};
        if (c.dx || c.dfactor) {
          curves.curve(p, i, at, &s, &ds);
          if (c.activation) {
            Lanes value, slope;
            activate(c.activation, x, &value, &slope);
            s += value, ds += slope;
          }
        }
        if (c.dfactor) {
          if (c.base) s = read(c.base + row, i, channels) + s;
          write(c.dfactor + row, h * s, i, channels);
        }
        if (c.factor) h *= read(c.factor + row, i, channels);
        if (c.dx) write(c.dx + row, h * ds, i, channels);
        if (c.dbase) write(c.dbase + row, h, i, channels);
        if constexpr (LEARNS) curves.gradients(p, i, at, h, places);
      });
    });
  }

  void add_up() {
    if (!learns()) return;
    for (int k = 0; k < all_width * padded; k++) totals[k] += sums[k];
    clear(sums);
  }

  // Gradients of every channel's own copy of its curve.
  void give(float* dcoefficients, float* ddenominators) {
    for (int i = 0; i < channels; i++) {
      if (dcoefficients) basis.give(dcoefficients + (first + i) * family.coefficients, totals.data, i);
      if (ddenominators)
        for (int k = 0; k < family.denominators; k++)
          ddenominators[(first + i) * family.denominators + k] =
              totals[width * padded + in_rows(i, family.denominators, k)];
    }
  }
};

// The gradients of all channels' curves, (I, count): where they are wanted if every channel has its own, else aside.
struct PerChannel {
  const Call& call;
  float* const wanted;
  const int count;
  Buffer<float> aside;

  PerChannel(const Call& call, float* wanted, int count)
      : call(call), wanted(wanted), count(count), aside(shared() ? call.inputs * count : 0) {}
  bool shared() const { return wanted && call.channels_per_curve > 1; }
  float* place() { return shared() ? aside.data : wanted; }
  void add_up() {
    if (!shared()) return;
    for (int64_t curve = 0; curve < call.curves; curve++)
      for (int c = 0; c < count; c++) {
        double sum = 0;  // of thousands of channels
        for (int64_t k = 0; k < call.channels_per_curve; k++)
          sum += aside[(curve * call.channels_per_curve + k) * count + c];
        wanted[curve * count + c] = float(sum);
      }
  }
};

template <class Basis>
void run(const Call& call, const Family& family, int threads) {
  const Basis basis(family);
  const bool backward = call.gradient != nullptr;
  if (call.tokens * call.inputs < ALONE) threads = 1;
  // A task has as many channels as may be: rows are read in long pieces, which processors see coming. Backward adds up
  // over tokens, so a task has all of them; forward may be cut along the tokens as well.
  const int64_t numbers = (basis.width() + family.denominators) * (backward ? 2 : 1);
  const int64_t most = std::max<int64_t>(TOGETHER, CACHED / numbers);
  const int64_t pieces = std::max<int64_t>(threads, (call.inputs + most - 1) / most);
  const int64_t span = (call.inputs + pieces * TOGETHER - 1) / (pieces * TOGETHER) * TOGETHER;
  const int64_t spans = (call.inputs + span - 1) / span;
  const int64_t cuts = backward ? 1 : std::max<int64_t>(1, std::min<int64_t>((call.tokens + 63) / 64, threads / spans));
  const int64_t per_cut = (call.tokens + cuts - 1) / cuts;
  PerChannel dcoefficients(call, call.dcoefficients, family.coefficients);
  PerChannel ddenominators(call, call.ddenominator, family.denominators);
  parallel(spans * cuts, threads, [&](int64_t task) {
    const int64_t first = task / cuts * span;
    Block<Basis> block(basis, call, family, first, int(std::min(span, call.inputs - first)));
    const int64_t begin = task % cuts * per_cut, end = std::min(begin + per_cut, call.tokens);
    if (!backward) return block.forward(begin, end);
    for (int64_t n = begin; n < end; n += SUMMED) {
      block.backward(n, std::min(n + SUMMED, end));
      block.add_up();
    }
    block.give(dcoefficients.place(), ddenominators.place());
  });
  dcoefficients.add_up(), ddenominators.add_up();
}

int dispatch(const Arguments* arguments) {
  CHECK_SIZE(arguments)
  const Call call(*arguments);
  const Family family{call.grid, call.order, call.extrapolation, call.num_coefficients, call.num_denominator, call.table};
  const int threads = call.threads;
  const bool few = !call.gradient && call.tokens <= FEW;
  switch (call.family) {
    case 1: call.order == 3 ? run<Chebyshev<3>>(call, family, threads) : run<Chebyshev<0>>(call, family, threads); break;
    case 2: call.order == 5 ? run<Rational<5>>(call, family, threads) : run<Rational<0>>(call, family, threads); break;
    default: switch (call.order) {
      case 1: few ? run_at_once<1>(call, family) : run<BSpline<1>>(call, family, threads); break;
      case 2: few ? run_at_once<2>(call, family) : run<BSpline<2>>(call, family, threads); break;
      case 3: few ? run_at_once<3>(call, family) : run<BSpline<3>>(call, family, threads); break;
      case 4: few ? run_at_once<4>(call, family) : run<BSpline<4>>(call, family, threads); break;
      case 5: few ? run_at_once<5>(call, family) : run<BSpline<5>>(call, family, threads); break;
    }
  }
  return 0;
}

}  // namespace

// `family` is 0 for B-splines, 1 for Chebyshev, 2 for rational curves; the gradient's absence makes it a forward pass.
EXPORT int curves_forward(const Arguments* arguments) { return dispatch(arguments); }
EXPORT int curves_backward(const Arguments* arguments) { return dispatch(arguments); }
