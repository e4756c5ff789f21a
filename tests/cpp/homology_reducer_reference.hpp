// Small filtrations, and their bars by plain reduction of the boundary matrix.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "homology_filtration.hpp"

namespace repgeom::test {

inline constexpr float absent = std::numeric_limits<float>::infinity();

using Vertices = std::vector<vertex_t>;  // decreasing
using Pairs = std::multiset<std::pair<rank_t, rank_t>>;

// Numbers in [0, bound), from a fixed sequence per seed.
struct Dice {
    std::uint64_t state;
    index_t operator()(index_t bound) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        return static_cast<index_t>((state >> 33) % static_cast<std::uint64_t>(bound));
    }
    float uniform() { return static_cast<float>((*this)(1 << 20)) / (1 << 20); }
};

struct Matrix {
    index_t n;
    std::vector<float> values;
    explicit Matrix(index_t size) : n(size), values(static_cast<std::size_t>(size * size)) {}
    float& at(index_t i, index_t j) {
        return values[static_cast<std::size_t>(std::max(i, j) * n + std::min(i, j))];
    }
};

inline Matrix euclidean(Dice& dice, index_t n, index_t dim, index_t grid) {
    std::vector<float> points(static_cast<std::size_t>(n * dim));
    for (float& x : points) x = grid > 0 ? static_cast<float>(dice(grid)) : dice.uniform();
    Matrix matrix(n);
    for (index_t i = 0; i < n; ++i)
        for (index_t j = 0; j < i; ++j) {
            float sum = 0;
            for (index_t k = 0; k < dim; ++k) {
                const float gap = points[i * dim + k] - points[j * dim + k];
                sum += gap * gap;
            }
            matrix.at(i, j) = std::sqrt(sum);
        }
    return matrix;
}

inline Matrix weights(Dice& dice, index_t n, index_t values) {
    Matrix matrix(n);
    for (index_t i = 0; i < n; ++i)
        for (index_t j = 0; j < i; ++j) matrix.at(i, j) = static_cast<float>(1 + dice(values));
    return matrix;
}

inline Matrix circulant(Dice& dice, index_t n) {
    std::vector<float> lengths(static_cast<std::size_t>(n / 2 + 1));
    for (float& length : lengths) length = static_cast<float>(1 + dice(4));
    Matrix matrix(n);
    for (index_t i = 0; i < n; ++i)
        for (index_t j = 0; j < i; ++j) matrix.at(i, j) = lengths[std::min(i - j, n - i + j)];
    return matrix;
}

// Opposite vertices 2 k and 2 k + 1 are 2 apart, all others 1.
inline Matrix cross_polytope(index_t pairs) {
    Matrix matrix(2 * pairs);
    for (index_t i = 0; i < 2 * pairs; ++i)
        for (index_t j = 0; j < i; ++j) matrix.at(i, j) = i / 2 == j / 2 ? 2.0F : 1.0F;
    return matrix;
}

// The edges up to the threshold, without the enclosing radius, so that classes may live for ever.
inline Filtration filtration_of(Matrix matrix, float threshold) {
    Filtration filtration;
    filtration.n = matrix.n;
    filtration.threshold = threshold;
    std::vector<std::pair<float, Edge>> edges;
    for (index_t i = 0; i < matrix.n; ++i) {
        filtration.names.push_back(static_cast<vertex_t>(i));
        for (index_t j = 0; j < i; ++j)
            if (matrix.at(i, j) <= threshold && matrix.at(i, j) < absent)
                edges.push_back({matrix.at(i, j), {static_cast<vertex_t>(i), static_cast<vertex_t>(j)}});
    }
    std::stable_sort(edges.begin(), edges.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [length, edge] : edges) {
        filtration.lengths.push_back(length);
        filtration.edges.push_back(edge);
    }
    return filtration;
}

// All simplices, and their largest edges.
class Complex {
  public:
    Complex(const Filtration& filtration, int max_dim) : n_(filtration.n) {
        for (std::size_t e = 0; e < filtration.edges.size(); ++e)
            ranks_[{filtration.edges[e].u, filtration.edges[e].v}] = static_cast<rank_t>(e);
        simplices_.resize(static_cast<std::size_t>(max_dim) + 1);
        Vertices vertices;
        extend(vertices, max_dim);
    }

    const std::vector<Vertices>& simplices(int dim) const {
        return simplices_[static_cast<std::size_t>(dim)];
    }

    // The largest edge; `no_rank` where an edge is missing.
    rank_t rank(const Vertices& vertices) const {
        rank_t largest = 0;
        for (std::size_t i = 0; i < vertices.size(); ++i)
            for (std::size_t j = i + 1; j < vertices.size(); ++j) {
                const auto found = ranks_.find({vertices[i], vertices[j]});
                if (found == ranks_.end()) return no_rank;
                largest = std::max(largest, found->second);
            }
        return largest;
    }

  private:
    void extend(Vertices& vertices, int max_dim) {
        if (!vertices.empty()) simplices_[vertices.size() - 1].push_back(vertices);
        if (static_cast<int>(vertices.size()) == max_dim + 1) return;
        const vertex_t bound = vertices.empty() ? static_cast<vertex_t>(n_) : vertices.back();
        for (vertex_t v = 0; v < bound; ++v) {
            vertices.push_back(v);
            if (rank(vertices) != no_rank) extend(vertices, max_dim);
            vertices.pop_back();
        }
    }

    index_t n_;
    std::map<std::pair<vertex_t, vertex_t>, rank_t> ranks_;
    std::vector<std::vector<Vertices>> simplices_;
};

using Chain = std::map<index_t, int>;  // by place in the order, coefficients 1..p-1

inline void add_multiple(Chain& chain, const Chain& other, int factor, int p) {
    for (const auto& [place, value] : other) {
        const int sum = (chain[place] + factor * value) % p;
        if (sum == 0)
            chain.erase(place);
        else
            chain[place] = sum;
    }
}

inline int inverse(int value, int p) {
    int result = 1;
    while (result * value % p != 1) ++result;
    return result;
}

// Pairs (birth edge, death edge) of dimensions 1..max_dim.
inline std::vector<Pairs> reference(const Filtration& filtration, int max_dim, int p) {
    const Complex complex(filtration, max_dim + 1);
    struct Cell {
        rank_t rank;
        int dim;
        Vertices vertices;
    };
    std::vector<Cell> cells;
    for (int dim = 0; dim <= max_dim + 1; ++dim)
        for (const Vertices& v : complex.simplices(dim))
            cells.push_back({dim == 0 ? 0 : complex.rank(v), dim, v});
    std::stable_sort(cells.begin(), cells.end(), [](const Cell& a, const Cell& b) {
        return std::pair(a.dim != 0, a.rank) < std::pair(b.dim != 0, b.rank);
    });
    std::map<Vertices, index_t> places;
    std::map<index_t, Chain> by_pivot;
    std::set<index_t> alive;
    std::vector<Pairs> pairs(static_cast<std::size_t>(max_dim) + 1);
    for (std::size_t c = 0; c < cells.size(); ++c) {
        const Cell& cell = cells[c];
        places[cell.vertices] = static_cast<index_t>(c);
        Chain chain;
        for (int i = 0; cell.dim > 0 && i <= cell.dim; ++i) {
            Vertices facet = cell.vertices;
            facet.erase(facet.begin() + i);
            chain[places[facet]] = i % 2 == 0 ? 1 : p - 1;
        }
        while (!chain.empty() && by_pivot.count(chain.rbegin()->first) != 0) {
            const Chain& other = by_pivot[chain.rbegin()->first];
            add_multiple(chain, other, p - chain.rbegin()->second * inverse(other.rbegin()->second, p) % p,
                         p);
        }
        if (chain.empty()) {
            alive.insert(static_cast<index_t>(c));
            continue;
        }
        const Cell& born = cells[static_cast<std::size_t>(chain.rbegin()->first)];
        alive.erase(chain.rbegin()->first);
        if (born.dim > 0 && born.rank != cell.rank)
            pairs[static_cast<std::size_t>(born.dim)].insert({born.rank, cell.rank});
        by_pivot[chain.rbegin()->first] = chain;
    }
    for (const index_t c : alive) {
        const Cell& cell = cells[static_cast<std::size_t>(c)];
        if (cell.dim >= 1 && cell.dim <= max_dim)
            pairs[static_cast<std::size_t>(cell.dim)].insert({cell.rank, no_rank});
    }
    return pairs;
}

}  // namespace repgeom::test
