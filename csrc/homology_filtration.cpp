#include "homology_filtration.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <memory>
#include <numeric>

namespace repgeom {

namespace {

constexpr index_t most_vertices = 65535;  // two of them fit one 32-bit name of an edge
constexpr float infinite = std::numeric_limits<float>::infinity();

// The length in the upper half (the bits of a float that is not negative sort as it does), a name in the
// lower.
using Key = std::uint64_t;

Key key_of(float length, std::uint32_t name) {
    return (Key{std::bit_cast<std::uint32_t>(length + 0.0F)} << 32) | name;  // -0 becomes 0
}

float length_of(Key key) { return std::bit_cast<float>(static_cast<std::uint32_t>(key >> 32)); }

// visit(0), visit(1), ..., and a look at the watch now and then.
template <typename Visit>
void in_parts(std::size_t count, const Watch& watch, const Visit& visit) {
    constexpr std::size_t part = std::size_t{1} << 20;
    for (std::size_t begin = 0; begin < count; begin += part) {
        watch.check();
        const std::size_t end = std::min(begin + part, count);
        for (std::size_t i = begin; i < end; ++i) visit(i);
    }
}

// Stable, by length: as many passes of 12 bits as the lengths have above the least of them.
void sort_by_length(std::unique_ptr<Key[]>& keys, std::size_t count, const Watch& watch) {
    constexpr int most_bits = 12;
    if (count == 0) return;
    Key least = keys[0], most = keys[0];
    in_parts(count, watch, [&](std::size_t i) {
        least = std::min(least, keys[i]);
        most = std::max(most, keys[i]);
    });
    const Key first = least >> 32;
    const int bits = static_cast<int>(std::bit_width((most >> 32) - first));
    if (bits == 0) return;
    const int digits = (bits + most_bits - 1) / most_bits, width = (bits + digits - 1) / digits;
    const Key mask = (Key{1} << width) - 1;
    const auto digit = [&](Key key, int d) { return (((key >> 32) - first) >> (width * d)) & mask; };
    auto other = uninitialized<Key>(count);
    for (int d = 0; d < digits; ++d) {
        std::vector<std::size_t> places(static_cast<std::size_t>(mask) + 1, 0);
        in_parts(count, watch, [&](std::size_t i) { ++places[digit(keys[i], d)]; });
        std::exclusive_scan(places.begin(), places.end(), places.begin(), std::size_t{0});
        in_parts(count, watch, [&](std::size_t i) { other[places[digit(keys[i], d)]++] = keys[i]; });
        std::swap(keys, other);
    }
}

// Where distance (i, j) of the caller lies: rows of the square, or of the condensed upper triangle.
struct Square {
    const float* data;
    index_t n;
    float operator()(index_t i, index_t j) const { return data[i * n + j]; }
};

struct Condensed {
    const float* data;
    index_t n;
    float operator()(index_t i, index_t j) const {
        if (i > j) std::swap(i, j);
        return data[i * n - i * (i + 3) / 2 + j - 1];
    }
};

// For every vertex its largest distance, and the sum of its squared distances: for points in a Euclidean
// space that puts those near the mean first.
struct Rows {
    std::vector<float> largest;
    std::vector<double> squares;

    explicit Rows(index_t n)
        : largest(static_cast<std::size_t>(n), 0), squares(static_cast<std::size_t>(n), 0) {}
};

Rows scan(const Square& distance, const Watch& watch) {
    Rows rows(distance.n);
    for (index_t i = 0; i < distance.n; ++i) {
        if (i % 256 == 0) watch.check();
        const float* row = distance.data + i * distance.n;
        // Eight independent sums, in a fixed order, for the sake of vector instructions.
        std::array<float, 8> most{};
        std::array<double, 8> sums{};
        index_t j = 0;
        for (; j + 8 <= distance.n; j += 8) {
            for (index_t k = 0; k < 8; ++k) {
                most[k] = std::max(most[k], row[j + k]);
                sums[k] += static_cast<double>(row[j + k]) * static_cast<double>(row[j + k]);
            }
        }
        for (; j < distance.n; ++j) {
            most[0] = std::max(most[0], row[j]);
            sums[0] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
        }
        rows.largest[i] = *std::max_element(most.begin(), most.end());
        rows.squares[i] = std::accumulate(sums.begin(), sums.end(), 0.0);
    }
    return rows;
}

Rows scan(const Condensed& distance, const Watch& watch) {
    Rows rows(distance.n);
    const float* value = distance.data;
    for (index_t i = 0; i < distance.n; ++i) {
        if (i % 256 == 0) watch.check();
        for (index_t j = i + 1; j < distance.n; ++j, ++value) {
            const double square = static_cast<double>(*value) * static_cast<double>(*value);
            rows.largest[i] = std::max(rows.largest[i], *value);
            rows.largest[j] = std::max(rows.largest[j], *value);
            rows.squares[i] += square;
            rows.squares[j] += square;
        }
    }
    return rows;
}

void check_threshold(float threshold) { require(threshold >= 0, "threshold must be at least 0", threshold); }

// Beyond the enclosing radius the complex is a cone over some vertex.
void cut(Filtration& filtration, float threshold, float enclosing) {
    filtration.cone = enclosing <= threshold && enclosing < infinite;
    filtration.threshold = filtration.cone ? enclosing : threshold;
}

template <typename Score>
void number_vertices(Filtration& filtration, const Score& before) {
    filtration.names.resize(static_cast<std::size_t>(filtration.n));
    std::iota(filtration.names.begin(), filtration.names.end(), vertex_t{0});
    std::stable_sort(filtration.names.begin(), filtration.names.end(), before);
}

template <typename Distance>
Filtration dense(const Distance& distance, float threshold, const Watch& watch) {
    const index_t n = distance.n;
    require(n >= 1, "a filtration needs at least 1 point", n);
    require(n <= most_vertices, "dense distances need at most " + std::to_string(most_vertices) + " points",
            n);
    check_threshold(threshold);
    Filtration filtration;
    filtration.n = n;
    const Rows rows = scan(distance, watch);
    cut(filtration, threshold, *std::min_element(rows.largest.begin(), rows.largest.end()));
    number_vertices(filtration, [&](vertex_t a, vertex_t b) { return rows.squares[a] < rows.squares[b]; });

    const float longest = filtration.threshold;
    const std::vector<vertex_t>& names = filtration.names;
    const auto pairs = static_cast<std::size_t>(n) * static_cast<std::size_t>(n - 1) / 2;
    auto keys = uninitialized<Key>(pairs + 1);
    std::size_t count = 0;
    for (index_t i = 1; i < n; ++i) {
        if (i % 256 == 0) watch.check();
        for (index_t j = 0; j < i; ++j) {
            const float length = distance(names[i], names[j]);
            keys[count] = key_of(length, static_cast<std::uint32_t>(i * n + j));
            count += static_cast<std::size_t>(length <= longest && length < infinite);
        }
    }
    sort_by_length(keys, count, watch);
    filtration.edges.resize(count);
    filtration.lengths.resize(count);
    const auto width = static_cast<std::uint32_t>(n);
    in_parts(count, watch, [&](std::size_t k) {
        const auto name = static_cast<std::uint32_t>(keys[k]);
        filtration.edges[k] = {name / width, name % width};
        filtration.lengths[k] = length_of(keys[k]);
    });
    return filtration;
}

// The smallest radius at which some vertex is joined to all others; infinite where none ever is.
float enclosing_radius(index_t n, const std::vector<index_t>& degrees, const std::vector<float>& largest) {
    float radius = infinite;
    for (index_t i = 0; i < n; ++i)
        if (degrees[i] == n - 1) radius = std::min(radius, largest[i]);
    return radius;
}

}  // namespace

Filtration filtration_of_square(const float* distances, index_t n, float threshold, const Watch& watch) {
    return dense(Square{distances, n}, threshold, watch);
}

Filtration filtration_of_condensed(const float* distances, index_t n, float threshold, const Watch& watch) {
    return dense(Condensed{distances, n}, threshold, watch);
}

Filtration filtration_of_graph(index_t n, const index_t* rows, const index_t* columns, const float* lengths,
                               index_t count, float threshold, const Watch& watch) {
    require(n >= 1, "a filtration needs at least 1 point", n);
    require(n < no_rank, "a graph needs fewer than 2^32 - 1 points", n);
    require(count < no_rank, "a graph needs fewer than 2^32 - 1 edges", count);
    check_threshold(threshold);
    Filtration filtration;
    filtration.n = n;
    std::vector<index_t> degrees(static_cast<std::size_t>(n), 0);
    std::vector<float> largest(static_cast<std::size_t>(n), 0);
    for (index_t k = 0; k < count; ++k) {
        for (const index_t vertex : {rows[k], columns[k]}) {
            require(vertex >= 0 && vertex < n, "vertices of a graph must be from 0 to n - 1", vertex);
            if (lengths[k] == infinite) continue;
            ++degrees[vertex];
            largest[vertex] = std::max(largest[vertex], lengths[k]);
        }
    }
    cut(filtration, threshold, enclosing_radius(n, degrees, largest));
    number_vertices(filtration, [&](vertex_t a, vertex_t b) { return degrees[a] > degrees[b]; });

    std::vector<vertex_t> place(static_cast<std::size_t>(n));
    for (index_t i = 0; i < n; ++i) place[filtration.names[i]] = static_cast<vertex_t>(i);
    auto keys = uninitialized<Key>(static_cast<std::size_t>(count) + 1);
    std::size_t kept = 0;
    for (index_t k = 0; k < count; ++k) {
        keys[kept] = key_of(lengths[k], static_cast<std::uint32_t>(k));
        kept += static_cast<std::size_t>(lengths[k] <= filtration.threshold && lengths[k] < infinite);
    }
    sort_by_length(keys, kept, watch);
    filtration.edges.resize(kept);
    filtration.lengths.resize(kept);
    in_parts(kept, watch, [&](std::size_t k) {
        const auto name = static_cast<std::uint32_t>(keys[k]);
        const vertex_t a = place[rows[name]], b = place[columns[name]];
        filtration.edges[k] = {std::max(a, b), std::min(a, b)};
        filtration.lengths[k] = length_of(keys[k]);
    });
    return filtration;
}

}  // namespace repgeom
