// Dimensions 0 and 1 by links against the reduction of boundary matrices; dense against sparse layout, every
// kernel table and team size against each other.
#include "homology_links.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "check.hpp"
#include "cpu_dispatch.hpp"
#include "homology_annotations.hpp"
#include "homology_links_find.hpp"

using namespace repgeom;

namespace {

constexpr float infinite = std::numeric_limits<float>::infinity();

using Matrix = std::vector<float>;  // square
using Pairs = std::multiset<std::pair<rank_t, rank_t>>;
using Triangle = std::pair<rank_t, vertex_t>;

Matrix matrix_of(index_t n, const std::function<double(index_t, index_t)>& length) {
    Matrix matrix(static_cast<std::size_t>(n * n), 0.0F);
    for (index_t i = 0; i < n; ++i)
        for (index_t j = 0; j < i; ++j)
            matrix[i * n + j] = matrix[j * n + i] = static_cast<float>(length(i, j));
    return matrix;
}

Matrix matrix_of_points(const std::vector<std::vector<double>>& points) {
    return matrix_of(static_cast<index_t>(points.size()), [&](index_t i, index_t j) {
        double sum = 0;
        for (std::size_t c = 0; c < points[i].size(); ++c)
            sum += (points[i][c] - points[j][c]) * (points[i][c] - points[j][c]);
        return std::sqrt(sum);
    });
}

Matrix gaussian(index_t n, int columns, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<double> normal;
    std::vector<std::vector<double>> points(static_cast<std::size_t>(n));
    for (auto& point : points)
        for (int c = 0; c < columns; ++c) point.push_back(normal(engine));
    return matrix_of_points(points);
}

// Points of a small grid: massive ties, and duplicates.
Matrix grid(index_t n, int side, int columns, unsigned seed) {
    std::mt19937 engine(seed);
    std::vector<std::vector<double>> points(static_cast<std::size_t>(n));
    for (auto& point : points)
        for (int c = 0; c < columns; ++c)
            point.push_back(static_cast<double>(engine() % static_cast<unsigned>(side)));
    return matrix_of_points(points);
}

Matrix random_weights(index_t n, unsigned values, unsigned seed) {
    std::mt19937 engine(seed);
    return matrix_of(n, [&](index_t, index_t) { return static_cast<double>(engine() % values + 1); });
}

Matrix circulant(index_t n, unsigned seed) {
    std::mt19937 engine(seed);
    std::vector<double> lengths(static_cast<std::size_t>(n));
    for (double& length : lengths) length = static_cast<double>(engine() % 5 + 1);
    return matrix_of(n, [&](index_t i, index_t j) { return lengths[std::min(i - j, n - i + j)]; });
}

Matrix cross_polytope(index_t n) {
    return matrix_of(n, [](index_t i, index_t j) { return i / 2 == j / 2 ? 2.0 : 1.0; });
}

// Disconnected: pairs longer than the limit are infinitely far.
Matrix cut(Matrix matrix, float limit) {
    for (float& value : matrix)
        if (value > limit) value = infinite;
    return matrix;
}

// Barycentric subdivision of the projective plane on six vertices, as a flag complex.
Matrix projective_plane() {
    const std::vector<std::array<int, 3>> triangles{{0, 1, 2}, {0, 2, 3}, {0, 3, 4}, {0, 4, 5}, {0, 1, 5},
                                                    {1, 2, 4}, {2, 3, 5}, {1, 3, 4}, {2, 4, 5}, {1, 3, 5}};
    std::set<std::set<int>> simplices;
    for (const auto& [a, b, c] : triangles)
        for (const std::set<int>& simplex : {std::set{a}, std::set{b}, std::set{c}, std::set{a, b},
                                             std::set{a, c}, std::set{b, c}, std::set{a, b, c}})
            simplices.insert(simplex);
    const std::vector<std::set<int>> all(simplices.begin(), simplices.end());
    return matrix_of(static_cast<index_t>(all.size()), [&](index_t i, index_t j) {
        const auto holds = [](const auto& a, const auto& b) {
            return std::includes(a.begin(), a.end(), b.begin(), b.end());
        };
        return holds(all[i], all[j]) || holds(all[j], all[i]) ? 1.0 : 2.0;
    });
}

Filtration filtration_of(const Matrix& matrix, float threshold = infinite) {
    const auto n = static_cast<index_t>(std::lround(std::sqrt(static_cast<double>(matrix.size()))));
    return filtration_of_square(matrix.data(), n, threshold, Watch());
}

// ---- the slow and obvious way

struct Simplex {
    rank_t last = 0;  // of its edges
    std::vector<vertex_t> vertices;

    bool operator<(const Simplex& other) const {
        return std::tie(last, vertices) < std::tie(other.last, other.vertices);
    }
};

class Complex {
  public:
    explicit Complex(const Filtration& filtration) : n_(static_cast<vertex_t>(filtration.n)) {
        for (rank_t edge = 0; edge < filtration.edges.size(); ++edge)
            ranks_[{filtration.edges[edge].v, filtration.edges[edge].u}] = edge;
    }

    // `no_rank` where there is no edge.
    rank_t rank(vertex_t a, vertex_t b) const {
        const auto found = ranks_.find({std::min(a, b), std::max(a, b)});
        return found == ranks_.end() ? no_rank : found->second;
    }

    std::vector<Simplex> simplices(std::size_t size) const {
        std::vector<Simplex> all;
        Simplex simplex;
        extend(simplex, 0, size, all);
        std::sort(all.begin(), all.end());
        return all;
    }

  private:
    void extend(Simplex& simplex, vertex_t first, std::size_t size, std::vector<Simplex>& all) const {
        if (simplex.vertices.size() == size) {
            all.push_back(simplex);
            return;
        }
        for (vertex_t x = first; x < n_; ++x) {
            const rank_t last = simplex.last;
            rank_t most = 0;
            for (const vertex_t y : simplex.vertices) most = std::max(most, rank(x, y));
            if (most == no_rank) continue;
            simplex.last = std::max(last, most);
            simplex.vertices.push_back(x);
            extend(simplex, x + 1, size, all);
            simplex.vertices.pop_back();
            simplex.last = last;
        }
    }

    vertex_t n_;
    std::map<std::pair<vertex_t, vertex_t>, rank_t> ranks_;
};

// Pairs of the ranks at which the classes of `dim` are born and die, those of equal ranks left out. Births
// that no column kills are added with `no_rank` where all simplices of `dim` that create a class are known.
Pairs reduce_boundary(const Complex& complex, std::size_t dim, int prime) {
    const auto faces = complex.simplices(dim + 1), cofaces = complex.simplices(dim + 2);
    std::map<std::vector<vertex_t>, int> places;
    for (std::size_t i = 0; i < faces.size(); ++i) places[faces[i].vertices] = static_cast<int>(i);
    std::map<int, std::map<int, int>> columns;  // by their lowest entry
    Pairs pairs;
    for (const Simplex& coface : cofaces) {
        std::map<int, int> column;
        for (std::size_t i = 0; i < coface.vertices.size(); ++i) {
            std::vector<vertex_t> face = coface.vertices;
            face.erase(face.begin() + static_cast<std::ptrdiff_t>(i));
            column[places[face]] = i % 2 == 0 ? 1 : prime - 1;
        }
        while (!column.empty()) {
            const auto [low, coefficient] = *column.rbegin();
            const auto found = columns.find(low);
            if (found == columns.end()) break;
            int factor = 0;
            while ((coefficient + factor * found->second.at(low)) % prime != 0) ++factor;
            for (const auto& [row, value] : found->second) {
                column[row] = (column[row] + factor * value) % prime;
                if (column[row] == 0) column.erase(row);
            }
        }
        if (column.empty()) continue;
        const rank_t birth = faces[static_cast<std::size_t>(column.rbegin()->first)].last;
        if (birth != coface.last) pairs.insert({birth, coface.last});
        columns[column.rbegin()->first] = column;
    }
    return pairs;
}

// Components of the link of every edge by search: their smallest vertices, in order.
std::vector<std::vector<vertex_t>> plain_roots(const Filtration& filtration, const Complex& complex) {
    std::vector<std::vector<vertex_t>> roots(filtration.edges.size());
    for (rank_t edge = 0; edge < filtration.edges.size(); ++edge) {
        const auto [u, v] = filtration.edges[edge];
        std::set<vertex_t> link;
        for (vertex_t x = 0; x < filtration.n; ++x)
            if (x != u && x != v && complex.rank(x, u) < edge && complex.rank(x, v) < edge) link.insert(x);
        while (!link.empty()) {
            roots[edge].push_back(*link.begin());
            std::vector<vertex_t> open{*link.begin()};
            link.erase(link.begin());
            while (!open.empty()) {
                const vertex_t x = open.back();
                open.pop_back();
                for (auto y = link.begin(); y != link.end();) {
                    if (complex.rank(x, *y) < edge) {
                        open.push_back(*y);
                        y = link.erase(y);
                    } else {
                        ++y;
                    }
                }
            }
        }
    }
    return roots;
}

// ---- ours

struct Settings {
    int field = 2;
    LinkLayout layout = LinkLayout::dense;
    const KernelTable* kernels = nullptr;
    int threads = 1;
};

LinkResult reduce(const Filtration& filtration, const Settings& settings) {
    LinkOptions options;
    options.field = settings.field;
    options.surfaces = true;
    options.kernels = settings.kernels != nullptr ? settings.kernels : available_kernels().back();
    ThreadTeam team(settings.threads);
    Watch watch;
    return reduce_links(filtration, options, settings.layout, team, watch);
}

Pairs mortal(const Bars& bars) {
    Pairs pairs;
    for (std::size_t i = 0; i < bars.births.size(); ++i)
        if (bars.deaths[i] != no_rank) pairs.insert({bars.births[i], bars.deaths[i]});
    return pairs;
}

std::vector<Triangle> triangles(const std::vector<RootTriangle>& candidates) {
    std::vector<Triangle> all;
    for (const RootTriangle& candidate : candidates) all.emplace_back(candidate.edge, candidate.root);
    return all;
}

bool same(const Bars& a, const Bars& b) {
    return std::tie(a.dim, a.births, a.deaths, a.birth_simplices, a.death_simplices) ==
           std::tie(b.dim, b.births, b.deaths, b.birth_simplices, b.death_simplices);
}

bool same(const LinkResult& a, const LinkResult& b) {
    return same(a.components, b.components) && same(a.loops, b.loops) &&
           triangles(a.candidates) == triangles(b.candidates) && triangles(a.killers) == triangles(b.killers);
}

// Every layout, kernel table and team size gives the same.
void check_variants(const Filtration& filtration, int field, const LinkResult& expected) {
    for (const int threads : {1, 2}) {
        CHECK(same(reduce(filtration, {field, LinkLayout::sparse, nullptr, threads}), expected));
        for (const KernelTable* table : available_kernels())
            CHECK(same(reduce(filtration, {field, LinkLayout::dense, table, threads}), expected));
    }
}

void check_components(const Filtration& filtration, const Bars& bars) {
    std::vector<vertex_t> names(static_cast<std::size_t>(filtration.n));
    for (vertex_t x = 0; x < filtration.n; ++x) names[x] = x;
    std::size_t at = 0;
    CHECK(bars.births.size() == names.size());
    for (rank_t edge = 0; edge < filtration.edges.size(); ++edge) {
        const auto [u, v] = filtration.edges[edge];
        const vertex_t low = std::min(names[u], names[v]), high = std::max(names[u], names[v]);
        if (low == high) continue;
        std::replace(names.begin(), names.end(), high, low);
        CHECK(bars.deaths[at] == edge && bars.birth_simplices[at] == high && bars.births[at] == 0);
        CHECK(bars.death_simplices[2 * at] == u && bars.death_simplices[2 * at + 1] == v);
        ++at;
    }
    for (vertex_t x = 0; x < filtration.n; ++x) {
        if (names[x] != x) continue;
        CHECK(bars.deaths[at] == no_rank && bars.birth_simplices[at] == x);
        ++at;
    }
    CHECK(at == bars.births.size());
}

// The simplices of every bar are those that its edges say.
void check_simplices(const Filtration& filtration, const LinkResult& result) {
    const Bars& bars = result.loops;
    std::vector<Triangle> deaths;
    for (std::size_t i = 0; i < bars.births.size(); ++i) {
        const Edge birth = filtration.edges[bars.births[i]];
        CHECK(bars.birth_simplices[2 * i] == birth.u && bars.birth_simplices[2 * i + 1] == birth.v);
        if (bars.deaths[i] == no_rank) continue;
        const Edge death = filtration.edges[bars.deaths[i]];
        CHECK(bars.death_simplices[3 * i] == death.u && bars.death_simplices[3 * i + 1] == death.v);
        deaths.emplace_back(bars.deaths[i], bars.death_simplices[3 * i + 2]);
    }
    CHECK(deaths == triangles(result.killers));
    CHECK(bars.death_simplices.size() == 3 * bars.births.size());
}

void check_roots(const std::vector<std::vector<vertex_t>>& roots, const LinkResult& result) {
    std::vector<Triangle> expected, found = triangles(result.candidates);
    for (rank_t edge = 0; edge < roots.size(); ++edge)
        for (std::size_t i = 1; i < roots[edge].size(); ++i) expected.emplace_back(edge, roots[edge][i]);
    CHECK(std::is_sorted(found.begin(), found.end()));
    for (const Triangle& killer : triangles(result.killers)) found.push_back(killer);
    std::sort(found.begin(), found.end());
    CHECK(found == expected);
}

void check_case(const Filtration& filtration) {
    const Complex complex(filtration);
    const auto roots = plain_roots(filtration, complex);
    for (const int field : {2, 3, 5, 251}) {
        const LinkResult result = reduce(filtration, {field, LinkLayout::dense, nullptr, 1});
        CHECK(mortal(result.loops) == reduce_boundary(complex, 1, field));
        check_components(filtration, result.components);
        check_simplices(filtration, result);
        check_roots(roots, result);
        // Every edge that closes a loop creates a class; it lives for ever if nothing kills it.
        std::size_t tree_edges = 0, empty = 0;
        for (const rank_t death : result.components.deaths) tree_edges += death != no_rank ? 1 : 0;
        for (const auto& of_edge : roots) empty += of_edge.empty() ? 1 : 0;
        CHECK(result.loops.births.size() == empty - tree_edges);
        if (filtration.n <= 12) {
            std::multiset<rank_t> born, candidates;
            for (const auto& [birth, death] : reduce_boundary(complex, 2, field)) born.insert(birth);
            for (const RootTriangle& candidate : result.candidates) candidates.insert(candidate.edge);
            CHECK(std::includes(candidates.begin(), candidates.end(), born.begin(), born.end()));
            if (filtration.cone) CHECK(candidates == born);
        }
        check_variants(filtration, field, result);
    }
}

void check_small() {
    for (unsigned seed = 0; seed < 12; ++seed) {
        const index_t n = 6 + seed;
        for (const Matrix& matrix : {gaussian(n, 2, seed), gaussian(n, 5, seed), grid(n, 3, 2, seed),
                                     grid(n, 2, 4, seed), random_weights(n, 1000, seed),
                                     random_weights(n, 4, seed), circulant(n, seed), cross_polytope(n)}) {
            check_case(filtration_of(matrix));
            check_case(filtration_of(cut(matrix, matrix[1])));
            check_case(filtration_of(matrix, matrix[n - 1]));
        }
    }
    for (unsigned seed = 100; seed < 104; ++seed)
        for (const Matrix& matrix :
             {gaussian(24, 2, seed), random_weights(22, 1000, seed), circulant(24, seed)})
            check_case(filtration_of(matrix));
}

void check_fewest() {
    for (const index_t n : {1, 2, 3}) check_case(filtration_of(cross_polytope(n)));
    const LinkResult none = reduce(Filtration{}, {});
    CHECK(none.components.births.empty() && none.loops.births.empty() && none.loops.dim == 1);
    check_case(filtration_of(cut(gaussian(5, 3, 1), 0.0F)));
}

void check_projective_plane() {
    const Filtration filtration = filtration_of(projective_plane());
    const auto lasting = [&](int field) {
        std::vector<std::pair<float, float>> bars;
        for (const auto& [birth, death] : mortal(reduce(filtration, {field}).loops))
            if (filtration.lengths[birth] < filtration.lengths[death])
                bars.emplace_back(filtration.lengths[birth], filtration.lengths[death]);
        return bars;
    };
    CHECK((lasting(2) == std::vector<std::pair<float, float>>{{1.0F, 2.0F}}));
    for (const int field : {3, 5, 251}) CHECK(lasting(field).empty());
}

// Rows of one vector up to many, links with several components, and more than one chunk of edges.
void check_large() {
    for (const Matrix& matrix : {gaussian(150, 3, 1), random_weights(130, 5000, 2), gaussian(600, 3, 3),
                                 grid(700, 9, 3, 4), circulant(514, 5)}) {
        const Filtration filtration = filtration_of(matrix);
        for (const int field : {2, 7}) {
            const LinkResult result = reduce(filtration, {field, LinkLayout::dense, nullptr, 1});
            check_components(filtration, result.components);
            check_simplices(filtration, result);
            check_variants(filtration, field, result);
        }
    }
    for (const index_t n : {1100, 1700, 2300, 2700, 3200, 3700, 4090, 4300}) {
        Filtration filtration = filtration_of(gaussian(n, 3, 6), 0.25F);
        const LinkResult result = reduce(filtration, {3, LinkLayout::sparse, nullptr, 1});
        check_components(filtration, result.components);
        CHECK(!result.loops.births.empty() && !result.killers.empty());
        check_variants(filtration, 3, result);
    }
}

// A path whose vertices come in the worst order for the search of components.
void check_long_links() {
    const index_t n = 400;
    std::mt19937 engine(1);
    std::vector<index_t> places(static_cast<std::size_t>(n));
    for (index_t i = 0; i < n; ++i) places[i] = i;
    std::shuffle(places.begin(), places.end(), engine);
    for (const bool shuffled : {false, true}) {
        const Matrix matrix = matrix_of(n, [&](index_t i, index_t j) {
            if (j < 2) return i < 2 ? 3.0 : 2.0;
            const index_t a = shuffled ? places[i] : i, b = shuffled ? places[j] : j;
            return std::abs(a - b) == 1 && a % 50 != 0 && b % 50 != 0 ? 1.0 : infinite;
        });
        const Filtration filtration = filtration_of(matrix);
        const Complex complex(filtration);
        const LinkResult result = reduce(filtration, {});
        check_roots(plain_roots(filtration, complex), result);
        check_variants(filtration, 2, result);
    }
}

// A graph with far more vertices than a bitset could hold: squares in a row.
void check_sparse_graph() {
    const index_t squares = 30000;
    std::vector<index_t> rows, columns;
    std::vector<float> lengths;
    for (index_t s = 0; s < squares; ++s)
        for (const auto& [a, b] : {std::pair{0, 1}, {1, 3}, {3, 2}, {2, 0}, {0, 3}}) {
            rows.push_back(3 * s + a);
            columns.push_back(3 * s + b);
            lengths.push_back(a == 0 && b == 3 ? 2.0F : 1.0F);
        }
    const Filtration filtration =
        filtration_of_graph(3 * squares + 1, rows.data(), columns.data(), lengths.data(),
                            static_cast<index_t>(rows.size()), infinite, Watch());
    CHECK(choose_layout(filtration.n, static_cast<index_t>(rows.size())) == LinkLayout::sparse);
    CHECK(choose_layout(20000, 199990000) == LinkLayout::dense);
    const LinkResult result = reduce(filtration, {3, LinkLayout::automatic, nullptr, 2});
    CHECK(mortal(result.loops).size() == static_cast<std::size_t>(squares) && result.candidates.empty());
    CHECK(mortal(result.loops).size() == result.loops.births.size());
    CHECK(std::count(result.components.deaths.begin(), result.components.deaths.end(), no_rank) == 1);
}

void check_options() {
    const Filtration filtration = filtration_of(gaussian(40, 3, 1));
    LinkOptions options;
    options.kernels = available_kernels().back();
    ThreadTeam team(2);
    Watch watch;
    const LinkResult all = reduce_links(filtration, options, team, watch);
    CHECK(all.candidates.empty() && all.killers.empty() && watch.share == 1.0);
    options.loops = false;
    const LinkResult few = reduce_links(filtration, options, team, watch);
    CHECK(same(all.components, few.components) && few.loops.births.empty());
    options.loops = true;
    for (const int field : {0, 1, 4, 253, 257, -3}) {
        options.field = field;
        std::string text;
        try {
            reduce_links(filtration, options, team, watch);
        } catch (const std::invalid_argument& error) {
            text = error.what();
        }
        CHECK(text == "coefficients must be a prime up to 251, got " + std::to_string(field));
    }
    options.field = 2;
    watch.stop = true;
    bool stopped = false;
    try {
        reduce_links(filtration, options, team, watch);
    } catch (const Stopped&) {
        stopped = true;
    }
    CHECK(stopped);
}

// Dense vectors over few classes, against the same with everything rewritten at once.
template <bool binary>
void check_annotations(int prime, bool compacting) {
    Annotations<binary> annotations(prime);
    std::mt19937 engine(static_cast<unsigned>(prime));
    std::vector<std::uint32_t> ids;
    std::vector<std::vector<int>> vectors;
    const auto size = [&] { return vectors.size(); };
    const auto coefficient = [&] {
        return static_cast<int>(binary ? 1 : engine() % static_cast<unsigned>(prime - 1) + 1);
    };
    for (int round = 0; round < 3000; ++round) {
        if (round % 20 == 0) {
            ids.push_back(annotations.give_birth());
            vectors.emplace_back(200, 0);
            vectors.back()[static_cast<std::size_t>(round / 20)] = 1;
        }
        const std::size_t i = engine() % size(), j = engine() % size();
        const int f = coefficient(), g = coefficient();
        std::vector<int> sum(200);
        for (std::size_t c = 0; c < sum.size(); ++c) sum[c] = (f * vectors[i][c] + g * vectors[j][c]) % prime;
        const auto id =
            annotations.combine(ids[i], static_cast<std::uint32_t>(f), ids[j], static_cast<std::uint32_t>(g));
        const bool zero = std::all_of(sum.begin(), sum.end(), [](int x) { return x == 0; });
        CHECK((id == 0) == zero);
        ids.push_back(id);
        vectors.push_back(sum);
        if (round % 25 == 24 && !zero) {
            std::size_t c = sum.size() - 1;
            while (sum[c] == 0) --c;
            CHECK(annotations.kill(id) == c);
            for (auto& vector : vectors) {
                int factor = 0;
                while ((vector[c] + factor * sum[c]) % prime != 0) ++factor;
                for (std::size_t k = 0; k < sum.size(); ++k)
                    vector[k] = (vector[k] + factor * sum[k]) % prime;
            }
        }
        if (compacting && round % 500 == 499) annotations.compact(ids);
    }
}

}  // namespace

int main() {
    for (const bool compacting : {false, true}) {
        check_annotations<true>(2, compacting);
        check_annotations<false>(3, compacting);
        check_annotations<false>(251, compacting);
    }
    check_fewest();
    check_projective_plane();
    check_options();
    check_small();
    check_long_links();
    check_sparse_graph();
    check_large();
    return test::failures() != 0;
}
