// Bars of dimension 2 against plain reduction of boundary matrices, edge by edge, over several fields, on
// every instruction set, with classes as lists of triangles and as bitsets.
#include "homology_surfaces.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "check.hpp"
#include "cpu_dispatch.hpp"

using namespace repgeom;

namespace {

constexpr float infinite = std::numeric_limits<float>::infinity();

using Weights = std::vector<std::vector<float>>;
using Column = std::map<int, int>;  // row to coefficient
using Shown = std::vector<std::pair<float, float>>;

Weights square(int n) { return Weights(static_cast<std::size_t>(n), std::vector<float>(n, 0)); }

Filtration filtration_of(const Weights& weights, float threshold) {
    Filtration filtration;
    filtration.n = static_cast<index_t>(weights.size());
    filtration.threshold = threshold;
    std::vector<std::tuple<float, vertex_t, vertex_t>> edges;
    for (vertex_t u = 0; u < weights.size(); ++u) {
        filtration.names.push_back(u);
        for (vertex_t v = 0; v < u; ++v)
            if (weights[u][v] <= threshold) edges.emplace_back(weights[u][v], u, v);
    }
    std::sort(edges.begin(), edges.end());
    for (const auto& [length, u, v] : edges) {
        filtration.lengths.push_back(length);
        filtration.edges.push_back({u, v});
    }
    return filtration;
}

// Simplices of one dimension as sorted vertices, in their order, and the ranks of their largest edges.
struct Simplices {
    std::vector<std::vector<int>> vertices;
    std::vector<rank_t> ranks;
    std::map<std::vector<int>, int> places;

    void add(std::vector<int> simplex, rank_t rank) {
        std::sort(simplex.begin(), simplex.end());
        places[simplex] = static_cast<int>(vertices.size());
        vertices.push_back(simplex);
        ranks.push_back(rank);
    }
};

struct Expected {
    std::vector<RootTriangle> candidates;
    std::multiset<std::pair<rank_t, rank_t>> bars;
};

int inverse(int value, int field) {
    int power = 1;
    for (int i = 2; i < field; ++i) power = power * value % field;
    return power;
}

// The columns of simplices over their faces, reduced from left to right; the pivot of each, -1 for none.
std::vector<int> reduce_plainly(const Simplices& simplices, const Simplices& faces, int field) {
    std::vector<int> pivots;
    std::map<int, Column> owners;
    for (const auto& simplex : simplices.vertices) {
        Column column;
        for (std::size_t i = 0; i < simplex.size(); ++i) {
            auto face = simplex;
            face.erase(face.begin() + static_cast<std::ptrdiff_t>(i));
            column[faces.places.at(face)] = i % 2 == 0 ? 1 : field - 1;
        }
        while (!column.empty()) {
            const auto [pivot, value] = *column.rbegin();
            const auto owner = owners.find(pivot);
            if (owner == owners.end()) {
                owners[pivot] = column;
                break;
            }
            const int factor = field - value * inverse(owner->second.at(pivot), field) % field;
            for (const auto& [row, other] : owner->second) {
                int& entry = column[row];
                entry = (entry + factor * other) % field;
                if (entry == 0) column.erase(row);
            }
        }
        pivots.push_back(column.empty() ? -1 : column.rbegin()->first);
    }
    return pivots;
}

struct Plain {
    const Filtration& filtration;
    std::vector<std::vector<rank_t>> ranks;
    Simplices edges, triangles, tetrahedra;
    std::vector<bool> extra;  // of triangles: whether the vertex is the root of a further component

    explicit Plain(const Filtration& from) : filtration(from) {
        const auto n = static_cast<std::size_t>(from.n);
        ranks.assign(n, std::vector<rank_t>(n, no_rank));
        for (rank_t k = 0; k < from.edges.size(); ++k) {
            add_edge(k);
            ranks[from.edges[k].u][from.edges[k].v] = ranks[from.edges[k].v][from.edges[k].u] = k;
        }
    }

    // All simplices whose largest edge is k; components of the link one after the other, every vertex after
    // a neighbour of it.
    void add_edge(rank_t k) {
        const int u = static_cast<int>(filtration.edges[k].u), v = static_cast<int>(filtration.edges[k].v);
        edges.add({u, v}, k);
        std::vector<int> link;
        for (int w = 0; w < filtration.n; ++w)
            if (ranks[u][w] < k && ranks[v][w] < k) link.push_back(w);
        std::vector<int> seen;
        const auto rest = [&](int w) { return std::find(seen.begin(), seen.end(), w) == seen.end(); };
        for (bool first = true; seen.size() < link.size(); first = false) {
            const int root = *std::find_if(link.begin(), link.end(), rest);
            std::size_t at = seen.size();
            seen.push_back(root);
            extra.push_back(!first);
            triangles.add({u, v, root}, k);
            for (; at < seen.size(); ++at)
                for (const int w : link)
                    if (rest(w) && ranks[seen[at]][w] < k) {
                        seen.push_back(w);
                        extra.push_back(false);
                        triangles.add({u, v, w}, k);
                    }
        }
        for (const int w : link)
            for (const int x : link)
                if (w < x && ranks[w][x] < k) tetrahedra.add({u, v, w, x}, k);
    }

    Expected expected(int field) const {
        Expected result;
        const std::vector<int> of_triangles = reduce_plainly(triangles, edges, field);
        std::map<int, rank_t> deaths;
        const std::vector<int> pivots = reduce_plainly(tetrahedra, triangles, field);
        for (std::size_t i = 0; i < pivots.size(); ++i)
            if (pivots[i] >= 0) deaths[pivots[i]] = tetrahedra.ranks[i];
        for (std::size_t i = 0; i < of_triangles.size(); ++i) {
            if (of_triangles[i] >= 0) continue;
            const auto death = deaths.find(static_cast<int>(i));
            const rank_t birth = triangles.ranks[i], end = death == deaths.end() ? no_rank : death->second;
            if (birth != end) result.bars.emplace(birth, end);
            if (!extra[i]) continue;
            int root = 0;
            for (const int w : triangles.vertices[i])
                if (w != static_cast<int>(filtration.edges[birth].u) &&
                    w != static_cast<int>(filtration.edges[birth].v))
                    root = w;
            result.candidates.push_back({birth, static_cast<vertex_t>(root)});
        }
        return result;
    }

    rank_t largest_edge(const vertex_t* simplex, int size) const {
        rank_t largest = 0;
        for (int i = 0; i < size; ++i)
            for (int j = 0; j < i; ++j) largest = std::max(largest, ranks[simplex[i]][simplex[j]]);
        return largest;
    }
};

struct Run {
    const KernelTable* kernels;
    index_t bitsets_after;
    int threads;
};

std::vector<Run> runs() {
    std::vector<Run> all;
    for (const KernelTable* table : available_kernels())
        for (const index_t after : {-1, 0, 3000}) all.push_back({table, after, 1});
    all.push_back({available_kernels().back(), SurfaceOptions{}.bitsets_after, 2});
    return all;
}

Bars reduced(const Filtration& filtration, const std::vector<RootTriangle>& candidates, int field,
             const Run& run) {
    SurfaceOptions options;
    options.field = field;
    options.kernels = run.kernels;
    options.bitsets_after = run.bitsets_after;
    ThreadTeam team(run.threads);
    Watch watch;
    return reduce_surfaces(filtration, candidates, options, watch);
}

void check_simplices(const Plain& plain, const Bars& bars) {
    CHECK(bars.dim == 2 && bars.birth_simplices.size() == 3 * bars.births.size() &&
          bars.death_simplices.size() == 4 * bars.births.size());
    for (std::size_t i = 0; i < bars.births.size(); ++i) {
        CHECK(plain.largest_edge(&bars.birth_simplices[3 * i], 3) == bars.births[i]);
        if (bars.deaths[i] != no_rank)
            CHECK(plain.largest_edge(&bars.death_simplices[4 * i], 4) == bars.deaths[i]);
    }
}

// Returns the number of bars.
std::size_t check_case(const Weights& weights, float threshold, const std::vector<int>& fields) {
    const Filtration filtration = filtration_of(weights, threshold);
    const Plain plain(filtration);
    std::size_t count = 0;
    for (const int field : fields) {
        const Expected expected = plain.expected(field);
        Bars first;
        for (const Run& run : runs()) {
            const Bars bars = reduced(filtration, expected.candidates, field, run);
            std::multiset<std::pair<rank_t, rank_t>> found;
            for (std::size_t i = 0; i < bars.births.size(); ++i)
                found.emplace(bars.births[i], bars.deaths[i]);
            CHECK(found == expected.bars);
            check_simplices(plain, bars);
            if (first.dim == 0) first = bars;
            CHECK(bars.deaths == first.deaths && bars.death_simplices == first.death_simplices);
        }
        count += expected.bars.size();
    }
    return count;
}

// Bars whose ends differ in length.
Shown visible_bars(const Weights& weights, float threshold, int field) {
    const Filtration filtration = filtration_of(weights, threshold);
    const Bars bars = reduced(filtration, Plain(filtration).expected(field).candidates, field, runs().back());
    Shown visible;
    for (std::size_t i = 0; i < bars.births.size(); ++i) {
        const float birth = filtration.lengths[bars.births[i]];
        const float death = bars.deaths[i] == no_rank ? infinite : filtration.lengths[bars.deaths[i]];
        if (birth != death) visible.emplace_back(birth, death);
    }
    return visible;
}

Weights points(int n, int dim, bool whole, std::mt19937& random) {
    std::normal_distribution<float> normal;
    std::vector<std::vector<float>> place(n, std::vector<float>(dim));
    for (auto& point : place)
        for (float& value : point) value = whole ? static_cast<float>(random() % 3) : normal(random);
    Weights weights = square(n);
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) {
            double sum = 0;
            for (int k = 0; k < dim; ++k) sum += std::pow(place[i][k] - place[j][k], 2);
            weights[i][j] = static_cast<float>(std::sqrt(sum));
        }
    return weights;
}

Weights sphere(int n, std::mt19937& random) {
    std::normal_distribution<double> normal;
    std::vector<std::array<double, 3>> place(n);
    for (auto& point : place) {
        for (double& value : point) value = normal(random);
        const double norm = std::hypot(point[0], point[1], point[2]);
        for (double& value : point) value /= norm;
    }
    Weights weights = square(n);
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j)
            weights[i][j] = static_cast<float>(
                std::hypot(place[i][0] - place[j][0], place[i][1] - place[j][1], place[i][2] - place[j][2]));
    return weights;
}

Weights random_weights(int n, unsigned values, std::mt19937& random) {
    Weights weights = square(n);
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < i; ++j)
            weights[i][j] = weights[j][i] = 1.0f + static_cast<float>(random() % values);
    return weights;
}

Weights circulant(int n, std::mt19937& random) {
    std::vector<float> steps(n);
    for (int i = 1; i <= n / 2; ++i) steps[i] = steps[n - i] = 1.0f + static_cast<float>(random() % 4);
    Weights weights = square(n);
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) weights[i][j] = steps[(i - j + n) % n];
    return weights;
}

void fuzz(int rounds) {
    std::mt19937 random(1);
    std::size_t bars = 0;
    const std::vector<int> fields{2, 3, 5, 251};
    for (int round = 0; round < rounds; ++round) {
        const int n = 6 + static_cast<int>(random() % 8);
        const float threshold = round % 2 == 0 ? infinite : 2.5f;
        bars += check_case(points(n, 2 + static_cast<int>(random() % 3), false, random), threshold, fields);
        bars += check_case(points(n, 3, true, random), threshold, fields);
        bars += check_case(random_weights(n, 2 + static_cast<unsigned>(random() % 60), random),
                           round % 2 == 0 ? infinite : 3.0f, fields);
        bars += check_case(circulant(n, random), threshold, fields);
    }
    CHECK(bars > static_cast<std::size_t>(rounds));
}

// Beyond a word of vertices, and long enough for windows to widen.
void check_larger() {
    std::mt19937 random(2);
    CHECK(check_case(sphere(24, random), infinite, {2, 3}) > 0);
    CHECK(check_case(random_weights(70, 60, random), 15.0f, {2, 5}) > 0);
    CHECK(check_case(random_weights(26, 400, random), infinite, {2, 3}) > 0);
}

// Bitsets of several lines: the same bars as lists of triangles give, on a sphere among many far points.
void check_wide() {
    std::mt19937 random(3);
    for (const int n : {530, 1100}) {
        Weights weights(n, std::vector<float>(n, 100));
        const Weights inner = sphere(20, random);
        for (int i = 0; i < 20; ++i)
            for (int j = 0; j < 20; ++j) weights[i * (n / 20)][j * (n / 20)] = inner[i][j];
        for (int i = 0; i < n; ++i) weights[i][i] = 0;
        CHECK(check_case(weights, 10.0f, {2, 3}) > 0);
    }
}

void check_cross_polytope() {
    std::mt19937 random(4);
    for (const int axes : {3, 4}) {
        Weights weights = square(2 * axes);
        for (int i = 0; i < 2 * axes; ++i)
            for (int j = 0; j < 2 * axes; ++j) weights[i][j] = i == j ? 0 : i / 2 == j / 2 ? 2.0f : 1.0f;
        check_case(weights, infinite, {2, 3, 251});
        check_case(weights, 1.0f, {2, 3, 251});
        for (const float threshold : {infinite, 1.0f})
            for (const int field : {2, 3, 251})
                CHECK(visible_bars(weights, threshold, field) ==
                      (axes == 3 ? Shown{{1.0f, threshold > 1 ? 2.0f : infinite}} : Shown{}));
        // Every point twice.
        Weights doubled = square(4 * axes);
        for (int i = 0; i < 4 * axes; ++i)
            for (int j = 0; j < 4 * axes; ++j) doubled[i][j] = weights[i / 2][j / 2];
        check_case(doubled, infinite, {2, 3});
    }
}

// A triangulated projective plane of 13 vertices; pairs that are not joined are 2 apart.
void check_projective_plane() {
    const char* rows[] = {"1",       "12",       "122",       "1222",       "11212",       "121212",
                          "1122122", "12112222", "211221111", "2222211221", "22222221112", "222111111211"};
    Weights weights = square(13);
    for (int i = 1; i < 13; ++i)
        for (int j = 0; j < i; ++j) weights[i][j] = weights[j][i] = static_cast<float>(rows[i - 1][j] - '0');
    for (const float threshold : {infinite, 1.0f}) {
        check_case(weights, threshold, {2, 3, 5});
        CHECK((visible_bars(weights, threshold, 2) == Shown{{1.0f, threshold > 1 ? 2.0f : infinite}}));
        CHECK(visible_bars(weights, threshold, 3).empty());
    }
}

void check_stop() {
    std::mt19937 random(5);
    const Filtration filtration = filtration_of(sphere(20, random), infinite);
    const Plain plain(filtration);
    const std::vector<RootTriangle> candidates = plain.expected(2).candidates;
    for (const index_t after : {-1, 0}) {
        SurfaceOptions options;
        options.bitsets_after = after;
        ThreadTeam team(1);
        Watch watch;
        CHECK(reduce_surfaces(filtration, {}, options, watch).births.empty());
        reduce_surfaces(filtration, candidates, options, watch);
        CHECK(watch.share == 1.0);
        watch.stop = true;
        bool stopped = false;
        try {
            reduce_surfaces(filtration, candidates, options, watch);
        } catch (const Stopped&) {
            stopped = true;
        }
        CHECK(stopped);
    }
}

}  // namespace

int main(int count, char** arguments) {
    fuzz(count > 1 ? std::atoi(arguments[1]) : 40);
    check_larger();
    check_wide();
    check_cross_polytope();
    check_projective_plane();
    check_stop();
    return test::failures() != 0;
}
