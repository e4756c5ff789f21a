// Which way of finding the neighbours pays: judged on a sample of rows before the work starts. It decides
// about time only; every way gives the same lists.
#pragma once

#include <limits>

#include "neighbors_frame.hpp"
#include "random.hpp"

namespace repgeom {

enum class Path { products32, products64, differences64, direct };

struct Plan {
    Path path = Path::direct;
    Frame frame;
};

// All rows in a random order: then no order of the data can make the lists shrink late.
inline std::vector<std::int32_t> shuffled(index_t n) {
    std::vector<std::int32_t> rows(static_cast<std::size_t>(n));
    std::iota(rows.begin(), rows.end(), 0);
    for (index_t i = n - 1; i > 0; --i) {
        const std::uint64_t bits = random_bits(0, 1, static_cast<std::uint64_t>(i));
        std::swap(rows[i], rows[static_cast<index_t>(bits % static_cast<std::uint64_t>(i + 1))]);
    }
    return rows;
}

class Planner {
  public:
    Planner(const Problem& problem, index_t k, double largest)
        : problem_(problem), k_(k), largest_(largest) {}

    Plan plan() const;

  private:
    struct Sample {
        index_t n = 0, tested = 0, stride = 0;
        std::vector<double> rows;    // [n, stride], as the measure sees them, times the scale
        std::vector<double> values;  // [tested, n]: half the squared distances of the first rows to all
    };

    Sample take_sample(double scale) const;
    Frame frame_of(const Sample& sample, double scale, index_t n_centres, bool float64) const;
    std::vector<double> centres_of(const Sample& sample, index_t n_centres) const;
    std::vector<index_t> nearest_centres(const Sample& sample, const std::vector<double>& centres) const;
    double expected_excess(const Sample& sample, const Frame& frame) const;

    const Problem& problem_;
    index_t k_;
    double largest_;
};

}  // namespace repgeom
