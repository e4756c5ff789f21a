// How rows become the operands of fast products: scaled by a power of two, about one of a few centres,
// massive features last. And the bounds that make the products safe as a filter.
#pragma once

#include <limits>

#include "neighbors_points.hpp"

namespace repgeom {

// A pair of rows a + centre(a), b + centre(b), with delta = centre(a) - centre(b), has
//   |a - b + delta|^2 / 2 = level(a) + level(b) - a.b,
//   level(a) = (|a|^2 + 2 a.delta + |delta|^2 / 2) / 2,   level(b) = (|b|^2 - 2 b.delta + |delta|^2 / 2) / 2,
// so that rows far from each other cost no digits: only a.b is a fast product. Values of pairs times
// `to_key` are *keys*.
struct Frame {
    index_t features = 0;
    double scale = 1;
    double to_key = 1;
    double unit = 0x1p-53;       // roundoff of the products
    double relative = 0;         // relative error of a key beside the additive one
    bool differences = false;    // sums of squared differences; else products
    bool levels = true;          // false for inner products, which have none
    index_t run = 1;             // features summed in registers before float64 takes over
    std::vector<index_t> order;  // feature k of the panels is feature order[k] of the rows; empty: k
    index_t n_centres = 1;
    index_t centre_stride = 0;
    std::vector<double> centres;
    std::vector<double> weights;  // see Shares

    index_t runs() const { return divide_up(features, run); }
    const double* centre(index_t c) const { return centres.data() + c * centre_stride; }
};

// Bounds of the errors of a key, as one share per row: |key by products - exact key| <= share(i) + share(j).
//
// A dot product in registers has the error u sum_k |s_k|, s_k its partial sums, and |s_k| <= (|a_1..k|^2 +
// |b_1..k|^2) / 2; so feature k counts as often as there are partial sums after it, which is its weight, and
// massive features placed last count once (Higham 2002, section 3.1, gives the standard model). Rounding of
// the rows by e changes a distance by at most |e_i| + |e_j|.
class Shares {
  public:
    explicit Shares(const Frame& frame)
        : unit_(1.01 * frame.unit),
          wide_(1.01 * 0x1p-53 *
                static_cast<double>((frame.n_centres > 1 ? frame.features : frame.features / 8) + frame.run +
                                    frame.runs() + 32)),
          tiny_(0x1p-125 * std::sqrt(static_cast<double>(frame.features))) {}

    // Of a row with |a|^2 = square and weighted sum of squares `weighted`, beside a centre at distance delta.
    double share(double square, double weighted, double delta, double level) const {
        const double norm = std::sqrt(square), reach = norm + delta;
        return unit_ * (weighted / 2 + 4 * square + norm * delta + 4 * std::abs(level)) +
               wide_ * reach * reach + tiny_ * (reach + tiny_);
    }

  private:
    double unit_;
    double wide_;
    double tiny_;
};

inline void set_runs(Frame& frame, bool float64) {
    frame.unit = float64 ? 0x1p-53 : 0x1p-24;
    const index_t d = frame.features;
    frame.run = d <= 384 ? d : divide_up(d, divide_up(d, 256));
    frame.weights.resize(static_cast<std::size_t>(d));
    for (index_t k = 0; k < d; ++k) {
        const index_t end = std::min((k / frame.run + 1) * frame.run, d);
        frame.weights[k] = static_cast<double>(end - k + 1 + (float64 ? frame.runs() : 0));
    }
}

// Massive features last: they would count once for every partial sum after them.
inline void order_features(Frame& frame, const std::vector<double>& moments) {
    const double mean =
        std::accumulate(moments.begin(), moments.end(), 0.0) / static_cast<double>(moments.size());
    const auto massive = [&](index_t c) { return moments[c] > 8 * mean; };
    std::vector<index_t> order(moments.size());
    std::iota(order.begin(), order.end(), index_t{0});
    const auto first =
        std::stable_partition(order.begin(), order.end(), [&](index_t c) { return !massive(c); });
    if (first == order.end()) return;
    std::stable_sort(first, order.end(), [&](index_t a, index_t b) { return moments[a] < moments[b]; });
    frame.order = std::move(order);
}

// Largest norm about 2^20: far from the overflow and the underflow of float32; less where the square of the
// scale would overflow, as the squares of the data underflow there.
inline double power_of_two_scale(double largest, index_t features) {
    const double norm = 2 * largest * std::sqrt(static_cast<double>(features));
    return norm > 0 ? std::exp2(std::min(20 - std::ceil(std::log2(norm)), 480.0)) : 1.0;
}

}  // namespace repgeom
